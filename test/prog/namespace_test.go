// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is the network for FIB lookups. Tests only read it, except for the
// neighbour `moving`.
var namespace = sync.OnceValues(func() (*os.File, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		file, err := buildNamespace()
		result <- made{file, err}
	}()
	m := <-result
	return m.file, m.err
})

// enter moves the test's goroutine into the namespace, for good.
func enter(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading programs and making network namespaces needs root")
	}
	if err := join(); err != nil {
		t.Fatal(err)
	}
}

// join moves a goroutine into the namespace, for good.
func join() error {
	ns, err := namespace()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

func buildNamespace() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	errs := []error{forwardPackets()}
	for _, d := range allDevices {
		errs = append(errs, addDevice(d))
	}
	for _, p := range []plan{plan4, plan6} {
		errs = append(errs, populate(p))
	}
	return file, errors.Join(errs...)
}

func forwardPackets() error {
	var errs []error
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o644))
	}
	return errors.Join(errs...)
}

// addDevice makes one end of a veth pair. The other end only gives it a
// carrier: a test run sends nothing.
func addDevice(d *device) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.HardwareAddr = d.name, d.index, d.mac()
	link := netlink.NewVeth(attrs)
	link.PeerName = d.name + "-peer"
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	peer, err := netlink.LinkByName(link.PeerName)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(link))
}

func populate(p plan) error {
	var errs []error
	for _, d := range allDevices {
		if d.addr != nil {
			errs = append(errs, addAddr(d, d.addr(p)))
		}
		if d.routes != nil {
			for _, host := range d.routes(p) {
				errs = append(errs, addRoute(host, host.BitLen(), d), setNeighbour(d, host, macOf(host)))
			}
		}
	}
	for host, d := range map[netip.Addr]*device{
		p.router: front, p.near: front, p.far: back, p.far2: back, p.moving: back,
		p.unready: slow, p.tunnelled: tunnel, p.narrow: back, p.narrowSlow: slow,
	} {
		errs = append(errs, setNeighbour(d, host, macOf(host)))
	}
	return errors.Join(append(errs,
		narrowRoute(p.narrow, netlink.Route{LinkIndex: back.index, Scope: unix.RT_SCOPE_LINK}),
		narrowRoute(p.narrowSlow, netlink.Route{LinkIndex: slow.index, Scope: unix.RT_SCOPE_LINK}),
		narrowRoute(p.narrowFar, netlink.Route{Gw: p.router.AsSlice()}),
		netlink.RouteAdd(&netlink.Route{Dst: network(p.vip, 0), Gw: p.router.AsSlice()}),
		netlink.RouteAdd(&netlink.Route{Dst: network(p.blackholed, p.blackholed.BitLen()), Type: unix.RTN_BLACKHOLE}),
		netlink.RouteAdd(&netlink.Route{Dst: network(p.unreachable, p.unreachable.BitLen()), Type: unix.RTN_UNREACHABLE}),
	)...)
}

// narrowMTU is the MTU of the routes to the narrow hosts. It is locked, because
// for others bpf_fib_lookup returns the device's.
const narrowMTU = 1300

func narrowRoute(host netip.Addr, r netlink.Route) error {
	r.Dst, r.MTU, r.MTULock = network(host, host.BitLen()), narrowMTU, true
	return netlink.RouteAdd(&r)
}

func network(a netip.Addr, bits int) *net.IPNet {
	prefix, err := a.Prefix(bits)
	must(err)
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

func addAddr(d *device, a netip.Addr) error {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	mask := net.CIDRMask(bits, a.BitLen())
	err := netlink.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: mask}, Flags: unix.IFA_F_NODAD,
	})
	if err != nil {
		return fmt.Errorf("address %s on %s: %w", a, d.name, err)
	}
	return nil
}

func addRoute(host netip.Addr, bits int, d *device) error {
	err := netlink.RouteAdd(&netlink.Route{Dst: network(host, bits), LinkIndex: d.index, Scope: unix.RT_SCOPE_LINK})
	if err != nil {
		return fmt.Errorf("route to %s by %s: %w", host, d.name, err)
	}
	return nil
}

func setNeighbour(d *device, a netip.Addr, mac net.HardwareAddr) error {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: d.index, Family: family, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("neighbour %s on %s: %w", a, d.name, err)
	}
	return nil
}

func forgetNeighbour(d *device, a netip.Addr) {
	must(netlink.NeighDel(&netlink.Neigh{LinkIndex: d.index, IP: a.AsSlice()}))
}
