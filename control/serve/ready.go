// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/waggle-lb/waggle/control/source"
)

// The reasons for which an agent is not ready, or not live.
var (
	errNotDelivered = errors.New("the source has not delivered everything yet")
	errNotWritten   = errors.New("the first sync is not over yet")
	errBehind       = errors.New("a change has not been written for two sync periods")
)

// probeHandler answers the probes of the agent's own pod. /healthz is for load balancers, and
// kube-proxy on the same node may have its address. The probes are about this process alone.
func (s *servers) probeHandler() http.Handler {
	m := http.NewServeMux()
	m.Handle("/livez", answerProbe(s.live))
	m.Handle("/readyz", answerProbe(s.ready))
	return m
}

// answerProbe answers 200, or 503 with the reason.
func answerProbe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// live fails if a restart could help: the proxy does not keep up.
func (s *servers) live() error {
	if !s.health.Health().Healthy {
		return errBehind
	}
	return nil
}

// ready fails until all services of the source are in force on this node, while services are served that the source
// has no more, while the proxy does not keep up, and while the datapath does not do what it should. A source that is
// away later makes no difference: the datapath works.
func (s *servers) ready() error {
	switch p := s.facts.Proxy(); {
	case !p.Synced:
		return errNotDelivered
	case p.LastSync.IsZero():
		return errNotWritten
	}
	return errors.Join(errHeld(source.Held(s.facts.Source)), s.live(), s.health.errDatapath())
}

func errHeld(services []string) error {
	if len(services) == 0 {
		return nil
	}
	return fmt.Errorf("%d Services are held (--deletion-brake): %s", len(services), strings.Join(services, ", "))
}
