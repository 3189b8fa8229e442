// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// address is an address of a device.
type address struct {
	ip     netip.Addr
	subnet bool // not a single host's address
	scope  uint8
}

// Addresses returns the present addresses of the node's devices.
func Addresses() (map[netip.Addr]bool, error) {
	devices, err := listAddrs(0)
	if err != nil {
		return nil, err
	}
	all := map[netip.Addr]bool{}
	for _, addrs := range devices {
		for _, a := range addrs {
			all[a.ip] = true
		}
	}
	return all, nil
}

// listAddrs lists the addresses of one device, or of all if the index is 0, by the indexes of their devices.
// The kernel looks at that device only. netlink.AddrList has it list all, and filters afterwards.
func listAddrs(ifindex int) (map[int][]address, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	defer socket.Close()
	// Without this option the kernel ignores the filter (Linux 4.20).
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	handle := &nl.SocketHandle{Socket: socket}
	out := map[int][]address{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		messages, err := dumpAddrs(handle, family, ifindex)
		if errors.Is(err, unix.ENODEV) {
			continue // it has just gone
		}
		if err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		}
		for _, m := range messages {
			if a, ok := parseAddress(m); ok {
				index := int(nl.DeserializeIfAddrmsg(m).Index)
				out[index] = append(out[index], a)
			}
		}
	}
	return out, nil
}

func dumpAddrs(handle *nl.SocketHandle, family, ifindex int) ([][]byte, error) {
	return netdump.Whole(func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: handle}
		header := nl.NewIfAddrmsg(family)
		header.Index = uint32(ifindex)
		request.AddData(header)
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
}

// parseAddress decodes an RTM_NEWADDR message (linux/if_addr.h). Where there is an IFA_LOCAL that differs
// from IFA_ADDRESS, IFA_ADDRESS is the other end's address, and has the length of the prefix.
func parseAddress(message []byte) (a address, ok bool) {
	header := nl.DeserializeIfAddrmsg(message)
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return a, false
	}
	var local, peer netip.Addr
	for _, attribute := range attributes {
		switch attribute.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attribute.Value)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(attribute.Value)
		}
	}
	if !local.IsValid() {
		local = peer
	}
	a = address{ip: local.Unmap(), scope: header.Scope}
	a.subnet = local == peer && int(header.Prefixlen) < local.BitLen()
	return a, a.ip.IsValid()
}
