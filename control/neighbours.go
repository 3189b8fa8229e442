// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// lookSettle gathers the changes of one burst, as of many pods that start.
const lookSettle = time.Second

// surroundings are what others have beside ours on the node. Only lookAround uses before.
type surroundings struct {
	before map[int][]loader.Neighbour // what runs before ours by device, with that of sockets under 0

	mu     sync.Mutex
	due    map[int]bool // devices to be looked at
	chains bool         // netfilter's too
}

// add has devices looked at that got or lost programs, and with one that leads out of the node the chains,
// whose rules name such.
func (s *surroundings) add(touched map[int]status.Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == nil {
		s.due = map[int]bool{}
	}
	for ifindex, role := range touched {
		s.due[ifindex] = true
		s.chains = s.chains || role == status.RoleExternal
	}
}

// addChains has the chains looked at.
func (s *surroundings) addChains() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chains = true
}

func (s *surroundings) take() (due map[int]bool, chains bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due, chains = s.due, s.chains
	s.due, s.chains = nil, false
	return due, chains
}

// lookAround looks now and then at what others have beside ours on the node, of which no event tells,
// and after changes of devices at these.
func (a *Agent) lookAround(ctx context.Context) {
	tick := time.NewTicker(a.proxy.pace.Repair)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		all := a.around.before == nil
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
			all = true
		}
		due, chains := a.around.take()
		a.lookAtHooks(all, due)
		if all || chains {
			a.lookAtChains()
		}
		a.lookAtConntrack()
		a.poke()
	}
}

// lookAtHooks tells of programs that run before ours, at all hooks or those of some devices. At tc such a
// program can keep packets from ours altogether; what others do is for people to know.
func (a *Agent) lookAtHooks(all bool, devices map[int]bool) {
	err := a.around.look(a.dp, a.cfg.Cgroup, all, devices)
	var warnings, notices []string
	for _, ifindex := range slices.Sorted(maps.Keys(a.around.before)) {
		for _, n := range a.around.before[ifindex] {
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
	}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("hooks: %v", err))
	}
	a.warnings.tell(a.log, "hooks", warnings)
	a.notices.tell(a.log, "hooks", notices)
}

// look brings what is known of the hooks up to date: of all, or of some devices.
func (s *surroundings) look(dp *loader.Datapath, cgroup string, all bool, devices map[int]bool) error {
	var errs []error
	if all {
		found, err := dp.Neighbours(cgroup)
		s.before = map[int][]loader.Neighbour{}
		for _, n := range found {
			s.before[n.Ifindex] = append(s.before[n.Ifindex], n)
		}
		return err
	}
	for ifindex := range devices {
		found, err := dp.NeighboursOf(ifindex)
		s.before[ifindex] = found
		if len(found) == 0 {
			delete(s.before, ifindex)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func beforeSockets(n loader.Neighbour) string {
	return fmt.Sprintf("cgroup %s, %s: %s runs before waggle's; what it has redirected is no call to a service any more",
		n.Cgroup, n.Hook, n.Program())
}
