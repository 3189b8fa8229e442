// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long events of one change are gathered: a link that goes down removes many routes.
	settle = 20 * time.Millisecond
	// patience bounds that time where events never cease, as while a routing daemon learns its table.
	patience = 200 * time.Millisecond
)

// neighbour identifies the neighbour of next hops.
type neighbour struct {
	ifindex int
	ip      netip.Addr
}

// Watch follows the kernel's links, addresses, routes and neighbours.
type Watch struct {
	Log *logrus.Entry
	// Routed is called after a change that may give any flow another next hop.
	Routed func()
	// Moved is called when a neighbour has got another MAC. nil: it has none now.
	Moved func(ifindex int, addr netip.Addr, mac net.HardwareAddr)
	// Changed is called after a change of links, of addresses or of where routes lead, and at the start
	// for everything.
	Changed func(Change)
	// Routes reports whether routes are known to lead elsewhere by a device. Of many routes by one device
	// only the first and the last one matter.
	Routes func(ifindex int) bool
	// NewPods reports whether a new route may lead to pods, and its destination is in no range of pods that is known.
	NewPods func(dst *net.IPNet, hop *netlink.NexthopInfo) bool

	macs  map[neighbour]string
	links map[int32]linkState
}

// linkState is the last reported state of a link.
type linkState struct {
	flags uint32
	ran   bool // had a carrier, now or earlier
}

// Run watches until ctx is done. When the kernel drops events it starts over, and takes everything as
// changed.
func (w *Watch) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.watch(ctx); err != nil {
			w.Log.WithError(err).Warn("watching the kernel's network configuration; starting over")
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

var errEnded = errors.New("the kernel's events ended")

type subscriptions struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	neighs chan netlink.NeighUpdate
	failed chan error
}

func subscribe(done chan struct{}) (*subscriptions, error) {
	s := &subscriptions{
		links:  make(chan netlink.LinkUpdate, 64),
		addrs:  make(chan netlink.AddrUpdate, 64),
		routes: make(chan netlink.RouteUpdate, 64),
		neighs: make(chan netlink.NeighUpdate, 64),
		failed: make(chan error, 8),
	}
	onError := func(err error) {
		select {
		case s.failed <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(s.links, done, netlink.LinkSubscribeOptions{ErrorCallback: onError}); err != nil {
		return nil, fmt.Errorf("subscribing to links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(s.addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: onError}); err != nil {
		return nil, fmt.Errorf("subscribing to addresses: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(s.routes, done, netlink.RouteSubscribeOptions{ErrorCallback: onError}); err != nil {
		return nil, fmt.Errorf("subscribing to routes: %w", err)
	}
	if err := netlink.NeighSubscribeWithOptions(s.neighs, done, netlink.NeighSubscribeOptions{ErrorCallback: onError, ListExisting: true}); err != nil {
		return nil, fmt.Errorf("subscribing to neighbours: %w", err)
	}
	return s, nil
}

func (w *Watch) watch(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	s, err := subscribe(done)
	if err != nil {
		return err
	}
	w.macs, w.links = map[neighbour]string{}, map[int32]linkState{}
	routed, changed := true, everything
	quiet := time.NewTimer(0)
	var deadline time.Time // zero: no event is pending
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		case link, ok := <-s.links:
			if !ok {
				return errEnded
			}
			routed = true
			changed.addDevice(int(link.Index))
			isNew, mayMoveRoutes := w.follow(link)
			changed.routes = changed.routes || mayMoveRoutes
			if isNew {
				w.Changed(changed) // at once: a new pod's first packets may follow soon
			}
		case a, ok := <-s.addrs:
			if !ok {
				return errEnded
			}
			routed = true
			changed.addDevice(a.LinkIndex)
			changed.routes = changed.routes || !a.NewAddr && w.Routes(a.LinkIndex) // some routes go with the address
		case r, ok := <-s.routes:
			if !ok {
				return errEnded
			}
			routed = true
			changed.routes = changed.routes || w.leadsAnew(r)
		case n, ok := <-s.neighs:
			if !ok {
				return errEnded
			}
			w.followNeighbour(n)
			continue
		case <-quiet.C:
			if routed {
				w.Routed()
			}
			if !changed.isEmpty() {
				w.Changed(changed)
			}
			routed, changed, deadline = false, Change{}, time.Time{}
			continue
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(patience)
		}
		quiet.Reset(min(settle, time.Until(deadline)))
	}
}

// follow notes the state of a link. isNew reports whether it has not been seen before, or has a carrier
// for the first time: the other end of a pod's device may have come to its namespace meanwhile.
// mayMoveRoutes: where a link comes up, goes down or is gone, the kernel does not report all routes that
// change with it.
func (w *Watch) follow(link netlink.LinkUpdate) (isNew, mayMoveRoutes bool) {
	before, known := w.links[link.Index]
	if link.Header.Type == unix.RTM_DELLINK {
		delete(w.links, link.Index)
		return false, w.Routes(int(link.Index))
	}
	const matters = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	runs := link.IfInfomsg.Flags&unix.IFF_RUNNING != 0
	now := linkState{flags: link.IfInfomsg.Flags & matters, ran: before.ran || runs}
	w.links[link.Index] = now
	return !known || now.ran && !before.ran, now.flags != before.flags && w.Routes(int(link.Index))
}

// leadsAnew reports whether a route may change what its devices are. The end of a default route counts at
// once. The end of the last of many other routes is noticed later.
func (w *Watch) leadsAnew(r netlink.RouteUpdate) bool {
	for _, hop := range hopsOf(r.Route) {
		if isDefault(r.Dst) {
			return true
		}
		if r.Type == unix.RTM_NEWROUTE && (leadsElsewhere(r.Dst, hop) && !w.Routes(hop.LinkIndex) || w.NewPods(r.Dst, hop)) {
			return true
		}
	}
	return false
}

// followNeighbour passes on a neighbour's new MAC at once: packets go astray until then. Changes of mere
// reachability, which are many, don't count. Nor do changes of bridges' tables of MAC addresses, which
// come as neighbours too.
func (w *Watch) followNeighbour(n netlink.NeighUpdate) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if n.Family != unix.AF_INET && n.Family != unix.AF_INET6 || !ok {
		return
	}
	key := neighbour{n.LinkIndex, addr.Unmap()}
	before, known := w.macs[key]
	if n.Type == unix.RTM_DELNEIGH || n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) != 0 {
		delete(w.macs, key)
		if known {
			w.Moved(n.LinkIndex, key.ip, nil)
		}
		return
	}
	w.macs[key] = n.HardwareAddr.String()
	if known && before != w.macs[key] {
		w.Moved(n.LinkIndex, key.ip, n.HardwareAddr)
	}
}
