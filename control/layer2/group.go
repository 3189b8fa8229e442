// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// groups are memberships in the multicast groups by which hosts ask for IPv6 addresses. By them the device's filter
// lets such questions in, and switches that snoop (RFC 4541) lead them here. The zero value has none.
type groups struct {
	members map[group]*membership
	sockets []int
}

// group is a multicast group on a device.
type group struct {
	addr    netip.Addr
	ifindex int
}

type membership struct {
	socket int
	addrs  map[netip.Addr]bool // that are asked for by the group; the last 24 bits are the same
}

// join joins the group of an address. IPv4 addresses have none.
func (g *groups) join(addr netip.Addr, ifindex int) error {
	if addr.Is4() {
		return nil
	}
	key := group{solicitedNode(addr), ifindex}
	if m := g.members[key]; m != nil {
		m.addrs[addr] = true
		return nil
	}
	socket, err := g.add(key)
	if err != nil {
		return fmt.Errorf("joining the group %s: %w", key.addr, err)
	}
	if g.members == nil {
		g.members = map[group]*membership{}
	}
	g.members[key] = &membership{socket, map[netip.Addr]bool{addr: true}}
	return nil
}

// add uses the newest socket, or a new one: the kernel limits what one may have (net.core.optmem_max).
func (g *groups) add(key group) (socket int, err error) {
	request := &unix.IPv6Mreq{Multiaddr: key.addr.As16(), Interface: uint32(key.ifindex)}
	if n := len(g.sockets); n > 0 {
		socket = g.sockets[n-1]
		err = unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, request)
		if err == nil || !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
			return socket, err
		}
	}
	socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err = unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, request); err != nil {
		return 0, errors.Join(err, unix.Close(socket))
	}
	g.sockets = append(g.sockets, socket)
	return socket, nil
}

// leave leaves the group of an address, unless others are asked for by it.
func (g *groups) leave(addr netip.Addr, ifindex int) error {
	if addr.Is4() {
		return nil
	}
	key := group{solicitedNode(addr), ifindex}
	m := g.members[key]
	if m == nil {
		return nil
	}
	delete(m.addrs, addr)
	if len(m.addrs) > 0 {
		return nil
	}
	delete(g.members, key)
	request := &unix.IPv6Mreq{Multiaddr: key.addr.As16(), Interface: uint32(ifindex)}
	err := unix.SetsockoptIPv6Mreq(m.socket, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, request)
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EADDRNOTAVAIL) { // the device is gone
		return fmt.Errorf("leaving the group %s: %w", key.addr, err)
	}
	return nil
}

// close leaves all.
func (g *groups) close() error {
	var errs []error
	for _, socket := range g.sockets {
		errs = append(errs, unix.Close(socket))
	}
	*g = groups{}
	return errors.Join(errs...)
}
