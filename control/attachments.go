// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	gomaps "maps"
	"slices"
	"sync"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// attachments are the programs that are attached, as the agent saw them last. To list all takes time in
// proportion to the devices, so after a change of some only these are looked at.
type attachments struct {
	mu      sync.Mutex
	sockets []loader.LinkStatus
	devices map[int][]loader.LinkStatus // nil: nothing is known
	list    []status.Link               // all, sorted; nil: to be made
	follows int                         // calls of follow
}

func (l *attachments) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.devices != nil
}

// look lists all.
func (l *attachments) look(dp *loader.Datapath) error {
	since := l.now()
	all, err := dp.Links()
	if err == nil {
		l.set(all, since)
	}
	return err
}

// now is what set compares with.
func (l *attachments) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follows
}

// set takes a list of all, unless a device was looked at since it was begun: it may lack what was found then.
func (l *attachments) set(all []loader.LinkStatus, since int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.devices != nil && l.follows != since {
		return
	}
	l.sockets, l.devices, l.list = nil, map[int][]loader.LinkStatus{}, nil
	for _, s := range all {
		if s.Ifindex == 0 {
			l.sockets = append(l.sockets, s)
			continue
		}
		l.devices[s.Ifindex] = append(l.devices[s.Ifindex], s)
	}
}

// follow looks at the devices that have got or lost programs, if anything is known.
func (l *attachments) follow(dp *loader.Datapath, touched map[int]status.Role) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follows++
	if l.devices == nil {
		return nil
	}
	links, err := dp.LinksOf(slices.Collect(gomaps.Keys(touched))...)
	if err != nil {
		return err
	}
	l.list = nil
	for ifindex := range touched {
		delete(l.devices, ifindex)
	}
	for _, s := range links {
		if _, is := touched[s.Ifindex]; is {
			l.devices[s.Ifindex] = append(l.devices[s.Ifindex], s)
		}
	}
	return nil
}

// all lists them: of sockets, then of devices by hook and device. The list is not changed.
func (l *attachments) all() []status.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list != nil {
		return l.list
	}
	var devices []loader.LinkStatus
	for _, links := range l.devices {
		devices = append(devices, links...)
	}
	slices.SortFunc(devices, func(a, b loader.LinkStatus) int {
		return cmp.Or(cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Ifindex, b.Ifindex))
	})
	for _, s := range slices.Concat(l.sockets, devices) {
		l.list = append(l.list, shown(s))
	}
	return l.list
}

// shown is an attachment as the status shows it.
func shown(l loader.LinkStatus) status.Link {
	return status.Link{
		Hook: l.Hook, Kind: l.Kind, Device: l.Device, Ifindex: l.Ifindex, Cgroup: l.Cgroup,
		Program: l.Program, ProgramID: uint32(l.ProgramID), LinkID: uint32(l.LinkID), Attached: l.Attached,
	}
}
