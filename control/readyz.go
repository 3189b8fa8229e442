// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/waggle-lb/waggle/control/source"
)

// heldBySource lists the Services that the source keeps though they are gone, as namespace/name.
func heldBySource(src source.Source) []string {
	if k, ok := src.(source.Keeper); ok {
		return k.Held()
	}
	return nil
}

// sourceNotices are what the source has to say that is no problem.
func sourceNotices(src source.Source) []string {
	if n, ok := src.(source.Noticer); ok {
		return n.Notices()
	}
	return nil
}

// unready lists what keeps the services of the node from being what the source says.
func (a *Agent) unready() (reasons []string) {
	if !a.proxy.isSynced() {
		reasons = append(reasons, "the source has not delivered everything once")
	}
	if b := a.Blind(); b != nil {
		reasons = append(reasons, "the source does not see changes: "+b.Why)
	}
	if held := heldBySource(a.src); len(held) > 0 {
		reasons = append(reasons, fmt.Sprintf("%d Services are held (--deletion-brake): %s", len(held), strings.Join(held, ", ")))
	}
	if !a.health.Health().Healthy {
		reasons = append(reasons, "changes can't be written to the maps")
	}
	return reasons
}

// readyz answers whether the node's services are what the source says, and if not, why.
func (a *Agent) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	reasons := a.unready()
	if len(reasons) == 0 {
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = fmt.Fprintln(w, strings.Join(reasons, "\n"))
}
