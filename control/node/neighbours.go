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

// lookSettle gathers the changes of one burst, as of many pods that start.
const lookSettle = time.Second

// Services are what is in force, of which others may drop or mark the packets. Both functions may call
// fn for a while, and let changes through meanwhile.
type Services interface {
	// EachFrontend calls fn with each address and port that leads to a service.
	EachFrontend(fn func(maps.Frontend, maps.Kind))
	// EachBackend calls fn with each endpoint of each service.
	EachBackend(fn func(maps.Backend))
}

// SurroundingsOptions tell of whom others may be in the way.
type SurroundingsOptions struct {
	Cgroup    string // whose processes' sockets are served; empty for none
	Devices   *Devices
	Services  Services
	Conntrack []ConntrackParameter
	// Every is how often everything is looked at.
	Every time.Duration
	// Warn takes what may keep something from working, Note what is good to know. What they are given
	// replaces what was found before about the same; no message: nothing is.
	Warn, Note func(about string, messages []string)
}

// Surroundings are what others have beside ours on the node, and have set there. Most of it no event
// tells of, so it is looked at now and then.
type Surroundings struct {
	dp   *loader.Datapath
	opts SurroundingsOptions
	log  *logrus.Entry
	wake chan struct{} // something is due

	before map[int][]loader.Neighbour // what runs before ours by device, with that of sockets under 0; Run's

	mu     sync.Mutex
	due    map[int]bool // devices to be looked at
	chains bool         // netfilter's too
}

// NewSurroundings prepares looks; Run takes them.
func NewSurroundings(dp *loader.Datapath, opts SurroundingsOptions, log *logrus.Entry) *Surroundings {
	return &Surroundings{dp: dp, opts: opts, log: log, wake: make(chan struct{}, 1)}
}

// Add has devices looked at soon that got or lost programs, by ifindex, and with one that leads out of the
// node the chains, whose rules name such.
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

// AddChains has the chains looked at soon.
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

// Run looks until ctx is done: at everything now and then, and after changes of devices at these.
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

// lookAtHooks tells of programs that run before ours, at all hooks or those of some devices. At tc such a
// program can keep packets from ours altogether; what others do is for people to know.
func (s *Surroundings) lookAtHooks(all bool, devices map[int]bool) {
	err := s.look(all, devices)
	var warnings, notices []string
	for _, ifindex := range slices.Sorted(gomaps.Keys(s.before)) {
		for _, n := range s.before[ifindex] {
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
	s.opts.Warn("hooks", warnings)
	s.opts.Note("hooks", notices)
}

// look brings what is known of the hooks up to date: of all, or of some devices.
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
	return fmt.Sprintf("cgroup %s, %s: %s runs before waggle's; what it has redirected is no call to a service any more",
		n.Cgroup, n.Hook, n.Program())
}
