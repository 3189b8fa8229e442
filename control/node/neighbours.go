// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// lookSettle is how long changes of one burst are gathered, as when many pods start.
const lookSettle = time.Second

// Services are the services in force, whose packets others may drop or mark. Both functions may call fn
// for a while, and let changes through meanwhile.
type Services interface {
	// EachFrontend calls fn with each address and port that leads to a service.
	EachFrontend(fn func(maps.Frontend, maps.Kind))
	// EachBackend calls fn with each endpoint of each service.
	EachBackend(fn func(maps.Backend))
}

// SurroundingsOptions are the options of Surroundings.
type SurroundingsOptions struct {
	Cgroup    string // the sockets of its processes are served; empty: none
	Devices   *Devices
	Services  Services
	Conntrack []ConntrackParameter
	// Every is the interval between looks at everything.
	Every time.Duration
	// Warn gets what may keep something from working, Note gets what is good to know. messages replace the
	// earlier ones with the same about; an empty list: there are none now.
	Warn, Note func(about string, messages []string)
}

// Surroundings are what other programs have on the node's hooks and in netfilter. The kernel sends no
// events for most of it, so the agent looks at intervals.
type Surroundings struct {
	dp   *loader.Datapath
	opts SurroundingsOptions
	log  *logrus.Entry
	wake chan struct{} // something is due

	before map[int][]loader.Neighbour // the programs before ours by device, and those of sockets under 0; Run owns it

	mu     sync.Mutex
	due    map[int]bool // devices to be looked at
	chains bool         // netfilter's chains, too
}

// NewSurroundings makes Surroundings; Run does the work.
func NewSurroundings(dp *loader.Datapath, opts SurroundingsOptions, log *logrus.Entry) *Surroundings {
	return &Surroundings{dp: dp, opts: opts, log: log, wake: make(chan struct{}, 1)}
}

// Add schedules a look at the devices that got or lost programs, by ifindex. If one of them leads out of
// the node, it also schedules a look at the chains, whose rules name such devices.
func (s *Surroundings) Add(touched map[int]status.Role) {
	s.mu.Lock()
	if s.due == nil {
		s.due = map[int]bool{}
	}
	for ifindex, role := range touched {
		s.due[ifindex] = true
		s.chains = s.chains || role == status.RoleExternal
	}
	s.mu.Unlock()
	s.poke()
}

// AddChains schedules a look at the chains.
func (s *Surroundings) AddChains() {
	s.mu.Lock()
	s.chains = true
	s.mu.Unlock()
	s.poke()
}

func (s *Surroundings) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Surroundings) take() (due map[int]bool, chains bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due, chains = s.due, s.chains
	s.due, s.chains = nil, false
	return due, chains
}

// Run looks until ctx is done: at everything at intervals, and after changes of devices at these.
func (s *Surroundings) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Every)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		all := s.before == nil
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if settled == nil {
				settled = time.After(lookSettle)
			}
			continue
		case <-settled:
			settled = nil
		case <-tick.C:
			all = true
		}
		due, chains := s.take()
		s.lookAtHooks(all, due)
		if all || chains {
			s.lookAtChains()
		}
		s.opts.Note("conntrack", ConntrackNotices(s.opts.Conntrack))
	}
}

// lookAtHooks reports programs that run before ours, at all hooks or at those of some devices. At tc such
// a program can keep packets from ours altogether, so it is a warning; elsewhere it is a notice.
func (s *Surroundings) lookAtHooks(all bool, devices map[int]bool) {
	err := s.look(all, devices)
	var warnings, notices []string
	for _, ifindex := range slices.Sorted(gomaps.Keys(s.before)) {
		for _, n := range s.before[ifindex] {
			switch {
			case n.Cgroup != "":
				notices = append(notices, beforeSockets(n))
			case n.Hook == "xdp":
				notices = append(notices, fmt.Sprintf("device %s, xdp: %s runs there; waggle does not see packets that it drops, answers or redirects",
					n.Device, n.Program()))
			default:
				warnings = append(warnings, fmt.Sprintf("device %s, %s: %s runs before waggle's; waggle does not see packets that it accepts "+
					"(TC_ACT_OK), drops or redirects; a restart of the agent puts waggle's first", n.Device, n.Hook, n.Program()))
			}
		}
	}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("hooks: %v", err))
	}
	s.opts.Warn("hooks", warnings)
	s.opts.Note("hooks", notices)
}

// look updates what is known of the hooks: of all, or of some devices.
func (s *Surroundings) look(all bool, devices map[int]bool) error {
	var errs []error
	if all {
		found, err := s.dp.Neighbours(s.opts.Cgroup)
		s.before = map[int][]loader.Neighbour{}
		for _, n := range found {
			s.before[n.Ifindex] = append(s.before[n.Ifindex], n)
		}
		return err
	}
	for ifindex := range devices {
		found, err := s.dp.NeighboursOf(ifindex)
		s.before[ifindex] = found
		if len(found) == 0 {
			delete(s.before, ifindex)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func beforeSockets(n loader.Neighbour) string {
	return fmt.Sprintf("cgroup %s, %s: %s runs before waggle's; waggle does not see calls that it redirects",
		n.Cgroup, n.Hook, n.Program())
}
