// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// PodNamespaces writes to the map which network namespaces are behind a device that has the packet hook: the
// socket hooks may leave sockets there to it. It finds a namespace in /proc, by the first process that runs
// in it. Until then, and always where the agent may not look, its sockets are served like those of pods
// without such a device.
type PodNamespaces struct {
	table   *maps.PodNamespaces
	devices *Devices
	log     *logrus.Entry
	wake    chan struct{}

	known    map[int]podNamespace // by the ifindex of the device's host side
	compared time.Time            // when the map was last compared with what is known
	searched bool                 // all processes were looked at once
	young    int                  // how many more searches look at new processes only
	since    int                  // the process after which these have started
}

// podNamespace identifies a namespace.
type podNamespace struct {
	id     int    // the kernel's id for it in our namespace
	name   string // of its links in /proc
	cookie uint64
}

// A pod's first process starts a moment after its device appears.
const (
	podFirstLook = 100 * time.Millisecond
	podLastLook  = time.Minute
	// podYoungLooks is how many searches for a new pod's namespace look at new processes only: for one and a half
	// seconds. A list of all takes time in proportion to the node's processes.
	podYoungLooks = 4
	// podOlder is how many processes may have started between the pod's first one and the agent's notice of its
	// device.
	podOlder = 64
	// podCompare is the interval at which changes that others made in the map are corrected.
	podCompare = time.Minute
)

// NewPodNamespaces makes PodNamespaces; Run does the work.
func NewPodNamespaces(dp *loader.Datapath, devices *Devices, log *logrus.Entry) *PodNamespaces {
	return &PodNamespaces{
		table: maps.NewPodNamespaces(dp), devices: devices, log: log,
		wake: make(chan struct{}, 1), known: map[int]podNamespace{},
	}
}

// Changed schedules a search after devices have come or gone.
func (n *PodNamespaces) Changed() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run searches until ctx is done: soon after a change, once for a burst of changes, and at growing intervals
// while some namespaces are not found.
func (n *PodNamespaces) Run(ctx context.Context) {
	pause := podFirstLook
	var again <-chan time.Time
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
			pause = podFirstLook
			n.expectNew()
			if soon := time.Now().Add(pause); again == nil || due.After(soon) {
				again, due = time.After(pause), soon
			}
			continue
		case <-again:
		}
		missing, err := n.sync()
		if err != nil {
			n.log.WithError(err).Debug("looking for the network namespaces of pods")
		}
		if again = nil; missing > 0 {
			pause = min(2*pause, podLastLook)
			again, due = time.After(pause), time.Now().Add(pause)
		}
	}
}

// expectNew has the next searches look at processes that start from now on, and a few that started before.
func (n *PodNamespaces) expectNew() {
	if !n.searched {
		return // there may be pods that are older than the agent
	}
	if n.young == 0 {
		last, err := netns.Last()
		if err != nil {
			return
		}
		n.since = max(last-podOlder, 1)
	}
	n.young = podYoungLooks
}

// sync searches. missing is the number of pods' devices whose namespace is still unknown.
func (n *PodNamespaces) sync() (missing int, err error) {
	behind := n.devices.podNamespaceIDs()
	errs := []error{n.forget(behind)}
	byID := map[int]podNamespace{}
	for _, ns := range n.known {
		byID[ns.id] = ns
	}
	want := map[int][]int{}
	for index, id := range behind {
		if _, ok := n.known[index]; ok {
			continue
		}
		if ns, ok := byID[id]; ok { // a pod may have several devices
			n.known[index] = ns
			continue
		}
		want[id] = append(want[id], index)
	}
	if len(want) > 0 {
		errs = append(errs, n.find(want))
	}
	if len(want) == 0 { // find removes what it finds
		n.searched, n.young = true, 0
	}
	if time.Since(n.compared) > podCompare {
		errs = append(errs, n.compare())
	}
	return len(behind) - len(n.known), errors.Join(errs...)
}

// forget removes the namespaces of devices that are gone, or lead elsewhere.
func (n *PodNamespaces) forget(behind map[int]int) error {
	gone := map[uint64]bool{}
	for index, ns := range n.known {
		if id, ok := behind[index]; !ok || id != ns.id {
			delete(n.known, index)
			gone[ns.cookie] = true
		}
	}
	for _, ns := range n.known {
		delete(gone, ns.cookie)
	}
	var errs []error
	for cookie := range gone {
		errs = append(errs, n.table.Delete(cookie))
	}
	return errors.Join(errs...)
}

// find searches for namespaces by the kernel's ids for them in our namespace.
func (n *PodNamespaces) find(want map[int][]int) error {
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE) // the handle stays in our namespace
	if err != nil {
		return err
	}
	defer node.Close()
	known := map[string]bool{}
	for _, ns := range n.known {
		known[ns.name] = true
	}
	var found podNamespace
	after := 0
	if n.young > 0 {
		n.young--
		after = n.since
	}
	n.searched = n.searched || after == 0
	filter := &netns.Filter{
		After: after,
		Known: func(name string) bool { return known[name] },
		Wanted: func(name string, ns *os.File) bool {
			id, err := node.GetNetNsIdByFd(int(ns.Fd()))
			found = podNamespace{id: id, name: name}
			return err == nil && len(want[id]) > 0
		},
		Enough: func() bool { return len(want) == 0 },
	}
	return netns.Each(filter, func() (err error) {
		if found.cookie, err = loader.NetnsCookie(); err != nil {
			return err
		}
		for _, index := range want[found.id] {
			n.known[index] = found
		}
		delete(want, found.id)
		return n.table.Put(found.cookie)
	})
}

// compare makes the map match what is known. At the start it may hold what an earlier agent knew.
func (n *PodNamespaces) compare() error {
	have, err := n.table.All()
	if err != nil {
		return err
	}
	want := map[uint64]bool{}
	for _, ns := range n.known {
		want[ns.cookie] = true
	}
	var errs []error
	for _, cookie := range have {
		if !want[cookie] {
			errs = append(errs, n.table.Delete(cookie))
		}
		delete(want, cookie)
	}
	for cookie := range want {
		errs = append(errs, n.table.Put(cookie))
	}
	n.compared = time.Now()
	return errors.Join(errs...)
}

// podNamespaceIDs lists the pods' devices that have our hook, with the ids of the namespaces of their other
// ends, as at the last Sync.
func (d *Devices) podNamespaceIDs() map[int]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[int]int{}
	for index, s := range d.status {
		if s.Role != status.RolePod {
			continue
		}
		if link := d.kernel.links[index]; link != nil && link.Attrs().NetNsID >= 0 {
			out[index] = link.Attrs().NetNsID
		}
	}
	return out
}
