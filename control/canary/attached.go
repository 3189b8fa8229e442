// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"errors"
	"fmt"
	"maps"
	"slices"

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
		found, err := c.Datapath.LinksOf(ifindex)
		errs = append(errs, err)
		for _, l := range want[ifindex] {
			if err := isThere(l, found); err != nil {
				c.detached[attachment{ifindex, l.Hook}] = true
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
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
	return fmt.Errorf("%s of %s: the program %s is not attached", l.Hook, l.Device, l.Program)
}

// turn picks, of each program, the attachment whose turn it is.
func (c *Canary) turn(links []status.Link) (picked []status.Link) {
	byProgram := map[string][]status.Link{}
	for _, l := range links {
		byProgram[l.Program] = append(byProgram[l.Program], l)
	}
	for _, program := range slices.Sorted(maps.Keys(byProgram)) {
		some := byProgram[program]
		picked = append(picked, some[c.round%len(some)])
	}
	return picked
}
