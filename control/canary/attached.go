// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// attachment is a program's place.
type attachment struct {
	ifindex int
	hook    string
}

// attached looks at one device of each program, at another each time, and at the sockets.
func (c *Canary) attached(links []status.Link) error {
	want := map[int][]status.Link{}
	for _, l := range links {
		if c.detached[attachment{l.Ifindex, l.Hook}] {
			want[l.Ifindex] = append(want[l.Ifindex], l)
		}
	}
	for _, l := range c.turn(links) {
		if l.Ifindex != 0 && !slices.Contains(want[l.Ifindex], l) {
			want[l.Ifindex] = append(want[l.Ifindex], l)
		}
	}
	var errs []error
	if c.Cgroup != "" {
		errs = append(errs, c.Datapath.CheckCgroup(c.Cgroup))
	}
	c.detached = map[attachment]bool{}
	for _, ifindex := range slices.Sorted(maps.Keys(want)) {
		for _, l := range want[ifindex] {
			err := c.isThere(l)
			errs = append(errs, err)
			c.detached[attachment{ifindex, l.Hook}] = errors.Is(err, errDetached)
		}
	}
	return errors.Join(errs...)
}

// isThere asks the kernel whether a device runs a program. By TCX the device alone is asked, which takes a fifth of
// the time.
func (c *Canary) isThere(l status.Link) error {
	if l.Kind == loader.KindTCX {
		runs, err := loader.RunsByTCX(l.Ifindex, l.Hook, ebpf.ProgramID(l.ProgramID), link.ID(l.LinkID))
		if errors.Is(err, unix.ENODEV) {
			return nil // it has gone
		}
		if err == nil && !runs {
			err = detached(l)
		}
		return err
	}
	found, err := c.Datapath.LinksOf(l.Ifindex)
	if err != nil {
		return err
	}
	return isThere(l, found)
}

var errDetached = errors.New("is not attached")

func detached(l status.Link) error {
	return fmt.Errorf("%s of %s: the program %s %w", l.Hook, l.Device, l.Program, errDetached)
}

// isThere fails if the kernel does not confirm that a device runs a program. Of a device that has gone meanwhile
// nothing is found at all.
func isThere(l status.Link, found []loader.LinkStatus) error {
	if len(found) == 0 {
		return nil
	}
	if slices.ContainsFunc(found, func(f loader.LinkStatus) bool { return f.Hook == l.Hook && f.Attached }) {
		return nil
	}
	return detached(l)
}

// turns are the attachments of each program, in the order of the programs' names.
type turns struct {
	links     []status.Link
	byProgram [][]int // indexes of links
}

// of reports whether the turns are those of a list, which does not change.
func (t *turns) of(links []status.Link) bool {
	return len(t.links) == len(links) && (len(links) == 0 || &t.links[0] == &links[0])
}

func newTurns(links []status.Link) *turns {
	byProgram := map[string][]int{}
	for i, l := range links {
		byProgram[l.Program] = append(byProgram[l.Program], i)
	}
	t := &turns{links: links}
	for _, program := range slices.Sorted(maps.Keys(byProgram)) {
		t.byProgram = append(t.byProgram, byProgram[program])
	}
	return t
}

// turn picks, of each program, the attachment whose turn it is.
func (c *Canary) turn(links []status.Link) (picked []status.Link) {
	if !c.turns.of(links) { // mostly the list is that of the round before, and may be long
		c.turns, c.macs = newTurns(links), map[int]net.HardwareAddr{}
	}
	for _, some := range c.turns.byProgram {
		picked = append(picked, links[some[c.round%len(some)]])
	}
	return picked
}
