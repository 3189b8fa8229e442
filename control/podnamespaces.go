// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/netdump"
	"github.com/waggle-lb/waggle/maps"
)

// podNamespaces tells the datapath in which network namespaces a pod's sockets may be left to the
// packet hook: those behind a device that has it. One is found in /proc, by the first process that
// runs in it; until then, and for good where the agent may not look, its sockets are served as those
// of pods without such a device.
type podNamespaces struct {
	table   *maps.PodNamespaces
	devices *Devices
	log     *logrus.Entry
	wake    chan struct{}
	known   map[int]uint64 // cookies by the host's side of the device
}

// A pod's first process comes a moment after its device.
const (
	podFirstLook = 50 * time.Millisecond
	podLastLook  = time.Minute
)

func newPodNamespaces(dp *loader.Datapath, devices *Devices, log *logrus.Entry) *podNamespaces {
	return &podNamespaces{
		table: maps.NewPodNamespaces(dp), devices: devices, log: log,
		wake: make(chan struct{}, 1), known: map[int]uint64{},
	}
}

// changed tells that devices have come or gone.
func (n *podNamespaces) changed() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run looks for namespaces until ctx is done: soon after a change, and ever less often while there
// are some to be found.
func (n *podNamespaces) Run(ctx context.Context) {
	pause := podFirstLook
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
			pause = podFirstLook
		case <-again:
		}
		missing, err := n.sync()
		if err != nil {
			n.log.WithError(err).Debug("looking for the network namespaces of pods")
		}
		if again = nil; missing > 0 {
			again = time.After(pause)
			pause = min(2*pause, podLastLook)
		}
	}
}

// sync tells how many devices of pods are left of which the namespace is not known.
func (n *podNamespaces) sync() (missing int, err error) {
	behind, err := n.devices.podNamespaceIDs()
	if err != nil {
		return 0, err
	}
	errs := []error{n.forget(behind)}
	want := map[int][]int{}
	for index, id := range behind {
		if _, ok := n.known[index]; !ok {
			want[id] = append(want[id], index)
		}
	}
	if len(want) > 0 {
		errs = append(errs, n.find(want))
	}
	errs = append(errs, n.write())
	return len(behind) - len(n.known), errors.Join(errs...)
}

// forget drops what is known of devices that are gone.
func (n *podNamespaces) forget(behind map[int]int) error {
	var errs []error
	for index, cookie := range n.known {
		if _, ok := behind[index]; !ok {
			delete(n.known, index)
			errs = append(errs, n.table.Delete(cookie))
		}
	}
	return errors.Join(errs...)
}

// find looks for namespaces by the ids that the kernel has for them in ours.
func (n *podNamespaces) find(want map[int][]int) error {
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE) // stays in our namespace
	if err != nil {
		return err
	}
	defer node.Close()
	var at []int
	wanted := func(ns *os.File) bool {
		id, err := node.GetNetNsIdByFd(int(ns.Fd()))
		at = want[id]
		return err == nil && len(at) > 0
	}
	return inNamespaces(wanted, func() error {
		cookie, err := loader.NetnsCookie()
		if err != nil {
			return err
		}
		for _, index := range at {
			n.known[index] = cookie
		}
		return nil
	})
}

// write makes the map what is known. At the start it may hold what an earlier agent knew.
func (n *podNamespaces) write() error {
	have, err := n.table.All()
	if err != nil {
		return err
	}
	want := map[uint64]bool{}
	for _, cookie := range n.known {
		want[cookie] = true
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
	return errors.Join(errs...)
}

// podNamespaceIDs lists the pods' devices that have our hook, with the ids of the namespaces that
// their other ends are in.
func (d *Devices) podNamespaceIDs() (map[int]int, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[int]int{}
	for _, link := range links {
		attrs := link.Attrs()
		if d.status[attrs.Index].Role == RolePod && attrs.NetNsID >= 0 {
			out[attrs.Index] = attrs.NetNsID
		}
	}
	return out, nil
}
