// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// network is a node's network namespace: an uplink, behind whose router all clients and other nodes
// are, and one device for the pods of the node.
type network struct {
	uplink, pods netlink.Link
	onPods       map[netip.Addr]bool // the pods that are there now
	others       *os.File            // the namespace of the devices' other ends, which lives by this
}

// routers are the uplink's next hops, on the networks of the node's addresses.
var routers = []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("2001:db8::fe")}

var (
	routerMAC = net.HardwareAddr{2, 0xee, 0, 0, 0, 1}
	podMAC    = net.HardwareAddr{2, 0xee, 0, 0, 0, 2}
)

// newNetwork moves the calling goroutine, which stays on its thread for good, into a new namespace.
func newNetwork(nodeIPs []netip.Addr) (*network, error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o644); err != nil {
			return nil, err
		}
	}
	n := &network{onPods: map[netip.Addr]bool{}}
	links, err := n.addDevices("eth0", "pods")
	if err != nil {
		return nil, err
	}
	n.uplink, n.pods = links[0], links[1]
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return n, errors.Join(netlink.LinkSetUp(lo), n.connect(nodeIPs))
}

// addDevices makes veth pairs, whose other ends are there for the carrier only.
func (n *network) addDevices(names ...string) (links []netlink.Link, err error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		made <- n.makePairs(here, names)
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("device %s: %w", name, err)
		}
		links = append(links, link)
	}
	return links, nil
}

// makePairs enters a new namespace, and makes devices that lead from there to another one.
func (n *network) makePairs(to *os.File, names []string) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	if n.others, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	for _, name := range names {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(to.Fd())
		if err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth)); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
		// The control plane refuses XDP beside a peer that leaves checksums to the device, if it can look at the peer.
		if err := topo.DisableTxOffload(name); err != nil {
			return err
		}
	}
	return nil
}

// connect gives the uplink the node's addresses and a way to everywhere.
func (n *network) connect(nodeIPs []netip.Addr) error {
	var errs []error
	for _, ip := range nodeIPs {
		bits := 24
		if ip.Is6() {
			bits = 64
		}
		errs = append(errs, netlink.AddrAdd(n.uplink, &netlink.Addr{IPNet: prefix(ip, bits), Flags: unix.IFA_F_NODAD}))
	}
	for _, router := range routers {
		errs = append(errs, setNeighbour(n.uplink, router, routerMAC), netlink.RouteAdd(&netlink.Route{
			LinkIndex: n.uplink.Attrs().Index, Gw: router.AsSlice(), Dst: prefix(unspecified(router), 0),
		}))
	}
	return errors.Join(errs...)
}

// setPods makes these addresses those of the node's pods.
func (n *network) setPods(want map[netip.Addr]bool) error {
	var errs []error
	route := func(ip netip.Addr) *netlink.Route {
		return &netlink.Route{LinkIndex: n.pods.Attrs().Index, Dst: prefix(ip, ip.BitLen()), Scope: unix.RT_SCOPE_LINK}
	}
	for ip := range n.onPods {
		if !want[ip] {
			errs = append(errs, netlink.RouteDel(route(ip)))
		}
	}
	for ip := range want {
		if !n.onPods[ip] {
			errs = append(errs, netlink.RouteAdd(route(ip)), setNeighbour(n.pods, ip, podMAC))
		}
	}
	n.onPods = want
	return errors.Join(errs...)
}

// deviceTo is the index of the device that the kernel would send by.
func deviceTo(ip netip.Addr) (int, error) {
	routes, err := netlink.RouteGet(ip.AsSlice())
	if err != nil {
		return 0, fmt.Errorf("route to %s: %w", ip, err)
	}
	return routes[0].LinkIndex, nil
}

func setNeighbour(link netlink.Link, ip netip.Addr, mac net.HardwareAddr) error {
	family := unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: unix.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	})
}

func prefix(ip netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, ip.BitLen())}
}

func unspecified(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
