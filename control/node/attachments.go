// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	gomaps "maps"
	"slices"
	"sync"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// Attachments are the attached programs, as the agent saw them last. A list of all takes time in
// proportion to the devices, so after a change of some devices the agent looks only at these. It is
// safe for concurrent use.
type Attachments struct {
	dp *loader.Datapath

	mu      sync.Mutex
	sockets []loader.LinkStatus
	devices map[int][]loader.LinkStatus // nil: not known yet
	list    []status.Link               // all, sorted; nil: out of date
	follows int                         // calls of Follow
}

// NewAttachments makes Attachments that are not known yet.
func NewAttachments(dp *loader.Datapath) *Attachments { return &Attachments{dp: dp} }

// Known reports whether the attachments are known.
func (l *Attachments) Known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.devices != nil
}

// Look lists all attachments.
func (l *Attachments) Look() (err error) {
	l.Take(func() (all []loader.LinkStatus, ok bool) {
		all, err = l.dp.Links()
		return all, err == nil
	})
	return err
}

// Take has a function list all attachments. It keeps the list if ok is true, and if no device was
// looked at meanwhile: the list may lack what was found then.
func (l *Attachments) Take(list func() (all []loader.LinkStatus, ok bool)) {
	l.mu.Lock()
	since := l.follows
	l.mu.Unlock()
	all, ok := list()
	if !ok {
		return
	}
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

// Follow looks at the devices that got or lost programs, by ifindex, if the attachments are known.
func (l *Attachments) Follow(touched map[int]status.Role) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follows++
	if l.devices == nil {
		return nil
	}
	links, err := l.dp.LinksOf(slices.Collect(gomaps.Keys(touched))...)
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

// All returns the attachments: those of sockets, then those of devices by hook and device. The caller
// must not change the list.
func (l *Attachments) All() []status.Link {
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

// shown converts an attachment to its form in the status.
func shown(l loader.LinkStatus) status.Link {
	return status.Link{
		Hook: l.Hook, Kind: l.Kind, Device: l.Device, Ifindex: l.Ifindex, Cgroup: l.Cgroup,
		Program: l.Program, ProgramID: uint32(l.ProgramID), LinkID: uint32(l.LinkID), Attached: l.Attached,
	}
}
