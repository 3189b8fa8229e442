// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
)

var errClosed = errors.New("closed")

// Host is a network namespace with processes: the laptop, a node or a pod.
type Host struct {
	Name string
	IP4  netip.Addr // of eth0
	IP6  netip.Addr // of eth0
	// Cgroup is the directory of the cgroup that the host's processes run in.
	Cgroup string

	ns *namespace

	mu        sync.Mutex
	closed    bool
	processes map[*Command]struct{}
	captures  []*Capture
}

func (n *Network) newHost(name, cgroup string, settings ...[]setting) (*Host, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h := &Host{Name: name, Cgroup: cgroup, ns: ns, processes: map[*Command]struct{}{}}
	if err := n.setUp(h, settings); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), h.close())
	}
	return h, nil
}

func (n *Network) setUp(h *Host, settings [][]setting) error {
	for _, s := range settings {
		if err := h.ns.apply(s); err != nil {
			return err
		}
	}
	if err := h.SetUp("lo"); err != nil {
		return err
	}
	if n.opts.Named {
		return h.ns.setName(n.Prefix + "-" + h.Name)
	}
	return nil
}

// Do runs fn inside the host's network namespace, on a thread that ends afterwards. Sockets that fn
// opens stay in the namespace, may be used anywhere, and keep the namespace alive until they are
// closed. Goroutines that fn starts are outside of the namespace. Start processes with
// [Host.Command], not in fn.
func (h *Host) Do(fn func() error) error {
	if h.isClosed() {
		return fmt.Errorf("%s: %w", h.Name, errClosed)
	}
	return h.ns.do(fn)
}

// NamespacePath returns the path of the host's network namespace for any process. It is valid as
// long as the host exists.
func (h *Host) NamespacePath() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.file.Fd())
}

// Netlink returns a route netlink handle inside the host's namespace, for what the methods here
// don't offer.
func (h *Host) Netlink() *netlink.Handle { return h.ns.netlink }

// Link looks up a device by name.
func (h *Host) Link(ifname string) (netlink.Link, error) {
	link, err := h.ns.netlink.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("%s: device %s: %w", h.Name, ifname, err)
	}
	return link, nil
}

// MAC returns the Ethernet address of a device.
func (h *Host) MAC(ifname string) (net.HardwareAddr, error) {
	link, err := h.Link(ifname)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

// SetUp brings a device up. See [Host.AwaitCarrier].
func (h *Host) SetUp(ifname string) error {
	link, err := h.Link(ifname)
	if err != nil {
		return err
	}
	if err := h.ns.netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: bring up %s: %w", h.Name, ifname, err)
	}
	return nil
}

// DelLink removes a device.
func (h *Host) DelLink(ifname string) error {
	link, err := h.Link(ifname)
	if err != nil {
		return err
	}
	if err := h.ns.netlink.LinkDel(link); err != nil {
		return fmt.Errorf("%s: remove %s: %w", h.Name, ifname, err)
	}
	return nil
}

// AwaitCarrier waits until devices that were brought up carry packets. The kernel finishes this
// asynchronously, and silently loses packets that are sent earlier.
func (h *Host) AwaitCarrier(ifnames ...string) error {
	return h.ns.await(fmt.Sprintf("%s: carrier of %v", h.Name, ifnames), func() (bool, error) {
		for _, ifname := range ifnames {
			link, err := h.Link(ifname)
			if err != nil {
				return false, err
			}
			if link.Attrs().OperState != netlink.OperUp {
				return false, nil
			}
		}
		return true, nil
	})
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *Host) close() error {
	h.mu.Lock()
	already := h.closed
	h.closed = true
	captures := h.captures
	h.mu.Unlock()
	if already {
		return nil
	}
	h.killAll()
	for _, c := range captures {
		_, _ = c.Stop() // the test has had the chance to stop it
	}
	return h.ns.close()
}
