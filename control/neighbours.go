// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/loader"
)

// lookSettle gathers the changes of one burst, as of many pods that start.
const lookSettle = time.Second

// lookAround looks now and then, and after changes of devices, at what others have beside ours on
// the node. No event tells of it.
func (a *Agent) lookAround(ctx context.Context) {
	tick := time.NewTicker(a.proxy.pace.Repair)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.attached:
			if settled == nil {
				settled = time.After(lookSettle)
			}
			continue
		case <-settled:
			settled = nil
		case <-tick.C:
		}
		a.lookAtHooks()
		a.lookAtChains()
		a.lookAtConntrack()
		a.poke()
	}
}

// lookAtHooks tells of programs that run before ours. At tc such a program can keep packets from
// ours altogether; what others do is for people to know.
func (a *Agent) lookAtHooks() {
	found, err := a.dp.Neighbours(a.cfg.Cgroup)
	var warnings, notices []string
	for _, n := range found {
		switch {
		case n.Cgroup != "":
			notices = append(notices, beforeSockets(n))
		case n.Hook == "xdp":
			notices = append(notices, fmt.Sprintf("device %s, xdp: %s runs there; what it drops, answers or redirects, waggle does not see",
				n.Device, n.Program()))
		default:
			warnings = append(warnings, fmt.Sprintf("device %s, %s: %s runs before waggle's, and what it accepts (TC_ACT_OK), "+
				"drops or redirects waggle does not see; a restart of the agent puts waggle's first", n.Device, n.Hook, n.Program()))
		}
	}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("hooks: %v", err))
	}
	a.warnings.tell(a.log, "hooks", warnings)
	a.notices.tell(a.log, "hooks", notices)
}

func beforeSockets(n loader.Neighbour) string {
	return fmt.Sprintf("cgroup %s, %s: %s runs before waggle's; what it has redirected is no call to a service any more",
		n.Cgroup, n.Hook, n.Program())
}
