// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// GuestOptions are the options of one guest.
type GuestOptions struct {
	// Tap connects the guest like a virtual machine, by a tap device whose
	// frames another process forwards. By default it has a veth, like a
	// container.
	Tap bool
	// Addrs are the addresses of its eth0, Gateways the gateways of its default
	// routes.
	Addrs    []netip.Prefix
	Gateways []netip.Addr
}

// AddGuest makes a host behind a bridge of the node. It is no pod of the
// cluster. The bridge's port has the guest's name.
func (node *Node) AddGuest(name, bridge string, opts GuestOptions) (*Host, error) {
	n := node.network
	n.building.Lock()
	defer n.building.Unlock()
	if !validName.MatchString(name) || n.hasHost(name) {
		return nil, fmt.Errorf("guest %q: want a new name in lower-case letters, digits and dashes", name)
	}
	cgroup, err := n.cgroups.make("outside", name)
	if err != nil {
		return nil, err
	}
	h, err := n.newHost(name, cgroup, hostSettings)
	if err != nil {
		return nil, errors.Join(err, removeCgroup(cgroup))
	}
	n.machines = append(n.machines, h)
	connect := n.connect
	if opts.Tap {
		connect = n.connectTaps
	}
	if err := connect(end{node.Host, name}, end{h, "eth0"}, 0); err != nil {
		return nil, err
	}
	if err := node.SetMaster(name, bridge); err != nil {
		return nil, err
	}
	for _, a := range opts.Addrs {
		if err := h.AddAddr("eth0", a); err != nil {
			return nil, err
		}
	}
	for _, g := range opts.Gateways {
		if err := h.setGateway(g); err != nil {
			return nil, err
		}
	}
	if !opts.Tap { // no carrier is reported for a tap device
		err = errors.Join(node.AwaitCarrier(name), h.AwaitCarrier("eth0"))
	}
	return h, errors.Join(err, node.AwaitCarrier(bridge))
}

// connectTaps makes a tap device in both namespaces, and forwards the frames
// from each to the other until the network is closed.
func (n *Network) connectTaps(a, b end, _ int) error {
	first, err := a.host.openTap(a.ifname)
	if err != nil {
		return err
	}
	second, err := b.host.openTap(b.ifname)
	if err != nil {
		return errors.Join(err, first.Close())
	}
	n.mu.Lock()
	n.held = append(n.held, first, second)
	n.mu.Unlock()
	go carry(first, second)
	go carry(second, first)
	return errors.Join(a.host.SetUp(a.ifname), b.host.SetUp(b.ifname))
}

// openTap makes a tap device that vanishes when the file is closed.
func (h *Host) openTap(ifname string) (file *os.File, err error) {
	err = h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(ifname)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		file = os.NewFile(uintptr(fd), "/dev/net/tun") // only now: polled before it belongs to a device, it fails
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: tap device %s: %w", h.Name, ifname, err)
	}
	return file, nil
}

// carry forwards one frame after another: a read of a tap device returns one
// frame. A frame that the other end doesn't accept is lost, as on any wire.
func carry(from io.Reader, to io.Writer) {
	frame := make([]byte, 1<<16)
	for {
		size, err := from.Read(frame)
		if err != nil {
			return // the file is closed
		}
		_, _ = to.Write(frame[:size])
	}
}
