// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// localAndRemote are two services with a pod each, on node-1 and on node-2. The agents don't run yet.
func localAndRemote(t *testing.T, m mode) (*setup, []service) {
	t.Helper()
	s := newSetup(t, topo.Routed, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	return s, services
}

func (s *setup) start(t *testing.T, services []service) {
	t.Helper()
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
}

// awaitRole waits until node-1's agent has given a device a role.
func (s *setup) awaitRole(t *testing.T, device string, role status.Role) {
	t.Helper()
	check(t, s.agents[0].Await(fmt.Sprintf("%s as %s", device, role), func(st *status.Status) bool {
		for _, d := range st.Devices {
			if d.Name == device {
				return d.Role == role && d.TC != ""
			}
		}
		return role == status.RoleNone
	}))
}

// several connections have several ports, by which the kernel chooses among several ways.
const several = 8

// ask sends requests to all services, in both families, by TCP and UDP, so often that each way is
// taken.
func ask(t *testing.T, what string, c *topo.Client, services []service, from func(v6 bool) netip.Addr, to func(s service, p port, v6 bool) netip.AddrPort) {
	t.Helper()
	for _, svc := range services {
		for _, v6 := range bothFamilies {
			tcp, udp := to(svc, http, v6), to(svc, dns, v6)
			for range several {
				replies := exchanges(c, topo.Request{To: tcp, Source: from(v6)}, topo.Request{To: udp, Source: from(v6)})
				checkAnswers(t, what+", "+svc.name, svc.name, replies, tcp, udp)
				if t.Failed() {
					break // each of the others would take its timeout
				}
			}
		}
	}
}

func fromAnywhere(bool) netip.Addr { return netip.Addr{} }

func second(h *topo.Host, v6 bool) netip.Addr {
	ip4, ip6 := topo.Second(h)
	if v6 {
		return ip6
	}
	return ip4
}

func everywhere(v6 bool) *net.IPNet {
	if v6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
}

// routeLBs routes load balancer addresses from the laptop by one of node-1's addresses.
func (s *setup) routeLBs(t *testing.T, via func(v6 bool) netip.Addr) {
	t.Helper()
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), via(false)))
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("2001:db8::/64"), via(true)))
}

// TestECMP, of contract 45: a node has two ways to everywhere. Clients come by either, and answers
// to them take either.
func TestECMP(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { ecmp(t, m) })
	}
}

func ecmp(t *testing.T, m mode) {
	s, services := localAndRemote(t, m)
	node := s.Nodes[0].Host
	check(t, s.AddEthernet(s.Laptop, node))
	clientOf := func(v6 bool) netip.Addr { // not a neighbour of the node
		if v6 {
			return netip.MustParseAddr("2001:db8:51::1")
		}
		return netip.MustParseAddr("198.51.100.1")
	}
	for _, v6 := range bothFamilies {
		check(t, s.Laptop.AddAddr("lo", topo.Single(clientOf(v6))))
		byBoth := &netlink.Route{Dst: everywhere(v6)}
		for device, gw := range map[string]netip.Addr{"eth0": addrOf(s.Laptop, v6), "eth1": second(s.Laptop, v6)} {
			link, err := node.Link(device)
			check(t, err)
			byBoth.MultiPath = append(byBoth.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice()})
		}
		check(t, node.Netlink().RouteAdd(byBoth))
	}
	s.start(t, services)
	c := client(t, s.Laptop)
	s.routeLBs(t, func(v6 bool) netip.Addr { return addrOf(node, v6) })
	ask(t, "by eth0", c, services, clientOf, service.lb)
	s.routeLBs(t, func(v6 bool) netip.Addr { return second(node, v6) })
	ask(t, "by eth1", c, services, clientOf, service.lb)
}

// TestSecondNIC, of contract 45: the pod network, and load balancer traffic, are on a NIC without
// an address of the Node object and without a default route.
func TestSecondNIC(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { secondNIC(t, m) })
	}
}

func secondNIC(t *testing.T, m mode) {
	s, services := localAndRemote(t, m)
	node, other := s.Nodes[0], s.Nodes[1]
	check(t, s.AddEthernet(s.Laptop, node.Host, other.Host))
	for _, v6 := range bothFamilies {
		check(t, node.AddRoute(podCIDR(other, v6), second(other.Host, v6)))
		check(t, other.AddRoute(podCIDR(node, v6), second(node.Host, v6)))
	}
	s.start(t, services)
	c := client(t, s.Laptop)
	nodePort := func(svc service, p port, v6 bool) netip.AddrPort { return svc.nodePort(addrOf(node.Host, v6), p) }
	ask(t, "NodePort by eth0", c, services, fromAnywhere, nodePort)
	for _, v6 := range bothFamilies {
		r := c.Get(topo.Request{To: nodePort(services[1], http, v6)})
		if got, want := r.Remote.Addr(), second(node.Host, v6); got != want {
			t.Errorf("the pod saw the client as %s, want the NIC's %s", got, want)
		}
	}
	s.routeLBs(t, func(v6 bool) netip.Addr { return second(node.Host, v6) })
	ask(t, "load balancer by eth1", c, services, fromAnywhere, service.lb)
}

func podCIDR(node *topo.Node, v6 bool) netip.Prefix {
	if v6 {
		return node.PodCIDR6
	}
	return node.PodCIDR4
}

// TestUnnumberedUplink, of contract 45: the uplink is a veth without an address, the node's address
// is on lo, and the only way out is in another table.
func TestUnnumberedUplink(t *testing.T) {
	s, services := localAndRemote(t, modes[1])
	node := s.Nodes[0].Host
	for _, v6 := range bothFamilies {
		bits := 24
		if v6 {
			bits = 64
		}
		check(t, node.DelAddr("eth0", netip.PrefixFrom(addrOf(node, v6), bits)))
		check(t, node.AddAddr("lo", topo.Single(addrOf(node, v6))))
		check(t, routeOnly(node, s.Laptop, v6))
		for _, from := range []*topo.Host{s.Laptop, s.Nodes[1].Host} {
			check(t, routeTo(from, node, v6))
		}
		check(t, s.Laptop.AddRoute(podCIDR(s.Nodes[1], v6), addrOf(s.Nodes[1].Host, v6)))
	}
	check(t, s.Laptop.Sysctl("net.ipv4.ip_forward", "1"))
	check(t, s.Laptop.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	s.start(t, services)
	s.awaitRole(t, "eth0", status.RoleExternal)
	c := client(t, s.Laptop)
	ask(t, "NodePort", c, services, fromAnywhere, func(svc service, p port, v6 bool) netip.AddrPort {
		return svc.nodePort(addrOf(node, v6), p)
	})
}

// routeOnly adds a default route by another host, in a table of its own, which is used where the
// main table has no route.
func routeOnly(h, via *topo.Host, v6 bool) error {
	const table = 100
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Family = table, 40000, unix.AF_INET
	route := &netlink.Route{Dst: everywhere(v6), Table: table, Flags: int(netlink.FLAG_ONLINK), Gw: via.IP4.AsSlice()}
	if v6 {
		rule.Family = unix.AF_INET6
		gw, err := linkLocal(via)
		if err != nil {
			return err
		}
		route.Gw = gw
	}
	link, err := h.Link("eth0")
	if err != nil {
		return err
	}
	route.LinkIndex = link.Attrs().Index
	return errors.Join(h.Netlink().RuleAdd(rule), h.Netlink().RouteAdd(route))
}

// routeTo adds a route to an address that another host has on another device than its eth0. IPv4
// needs no route: the other host answers for all of its addresses.
func routeTo(h, to *topo.Host, v6 bool) error {
	if !v6 {
		return nil
	}
	gw, err := linkLocal(to)
	if err != nil {
		return err
	}
	link, err := h.Link("eth0")
	if err != nil {
		return err
	}
	return h.Netlink().RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Gw: gw,
		Dst: &net.IPNet{IP: to.IP6.AsSlice(), Mask: net.CIDRMask(128, 128)},
	})
}

func linkLocal(h *topo.Host) (net.IP, error) {
	link, err := h.Link("eth0")
	if err != nil {
		return nil, err
	}
	addrs, err := h.Netlink().AddrList(link, netlink.FAMILY_V6)
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() {
			return a.IP, err
		}
	}
	return nil, errors.Join(err, fmt.Errorf("%s has no link-local address", h.Name))
}

// TestBridgeUplink, of contract 45 and 57: the node's address is on a bridge. The NIC is a port of
// the bridge, and so is a virtual machine's device.
func TestBridgeUplink(t *testing.T) {
	s, services := localAndRemote(t, modes[1])
	node := s.Nodes[0].Host
	other := s.Nodes[1]
	at4, at6 := netip.PrefixFrom(node.IP4, 24), netip.PrefixFrom(node.IP6, 64)
	check(t, errors.Join(node.DelAddr("eth0", at4), node.DelAddr("eth0", at6)))
	check(t, node.AddBridge("br0"))
	check(t, node.SetMaster("eth0", "br0"))
	check(t, errors.Join(node.AddAddr("br0", at4), node.AddAddr("br0", at6), node.AwaitCarrier("br0")))
	for _, v6 := range bothFamilies {
		check(t, node.AddRoute(podCIDR(other, v6), addrOf(other.Host, v6)))
	}
	s.start(t, services)
	s.awaitRole(t, "br0", status.RoleExternal)
	s.awaitRole(t, "eth0", status.RoleNone)
	ask(t, "NodePort", client(t, s.Laptop), services, fromAnywhere, func(svc service, p port, v6 bool) netip.AddrPort {
		return svc.nodePort(addrOf(node, v6), p)
	})
	unseen := s.addUnseen(t)
	s.awaitRole(t, "veth-outside", status.RolePod) // before that the node has no route for what the pod sends
	ask(t, "pod, cluster IP", client(t, unseen), services, fromAnywhere, service.clusterIP)
	machine, err := s.Nodes[0].AddGuest("vnet0", "br0", topo.GuestOptions{
		Tap:      true,
		Addrs:    []netip.Prefix{netip.MustParsePrefix("192.168.1.150/24"), netip.MustParsePrefix("fd00:192:168:1::150/64")},
		Gateways: []netip.Addr{node.IP4, node.IP6},
	})
	check(t, err)
	ask(t, "machine, cluster IP", client(t, machine), services, fromAnywhere, service.clusterIP)
}

// addUnseen makes a pod on node-1 whose sockets no hook sees.
func (s *setup) addUnseen(t *testing.T) *topo.Host {
	t.Helper()
	pod, err := s.Nodes[0].AddPod("outside", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	return pod.Host
}

// TestGuests, of contract 57: virtual machines and containers on a bridge of the node, in a subnet
// of their own, reach services.
func TestGuests(t *testing.T) {
	for name, taps := range map[string][]bool{"machine": {true}, "container": {false}, "both": {true, false}} {
		t.Run(name, func(t *testing.T) { guests(t, taps) })
	}
}

func guests(t *testing.T, taps []bool) {
	s, services := localAndRemote(t, modes[1])
	node := s.Nodes[0]
	check(t, node.AddBridge("virbr0", guestNetwork(1, false), guestNetwork(1, true)))
	var all []*topo.Host
	for i, tap := range taps {
		all = append(all, s.addGuest(t, i, tap))
	}
	s.start(t, services)
	for _, guest := range all {
		c := client(t, guest)
		ask(t, guest.Name+", cluster IP", c, services, fromAnywhere, service.clusterIP)
		ask(t, guest.Name+", NodePort", c, services, fromAnywhere, func(svc service, p port, v6 bool) netip.AddrPort {
			return svc.nodePort(addrOf(node.Host, v6), p)
		})
		if r := c.Post(topo.Request{To: services[1].clusterIP(http, false), Size: bulk}); !r.OK() {
			t.Errorf("%s, %d bytes: %s", guest.Name, bulk, r)
		}
	}
}

// addGuest connects a machine or a container to the bridge. A container keeps its address, as a pod
// does, so the other node needs a route to it.
func (s *setup) addGuest(t *testing.T, number int, tap bool) *topo.Host {
	t.Helper()
	name := fmt.Sprintf("veth-%d", number)
	if tap {
		name = fmt.Sprintf("vnet%d", number)
	}
	opts := topo.GuestOptions{Tap: tap}
	for _, v6 := range bothFamilies {
		opts.Addrs = append(opts.Addrs, guestNetwork(number+5, v6))
		opts.Gateways = append(opts.Gateways, guestNetwork(1, v6).Addr())
		if !tap {
			check(t, s.Nodes[1].AddRoute(topo.Single(guestNetwork(number+5, v6).Addr()), addrOf(s.Nodes[0].Host, v6)))
		}
	}
	guest, err := s.Nodes[0].AddGuest(name, "virbr0", opts)
	check(t, err)
	return guest
}

// guestNetwork returns a host's address, and its subnet, on the bridge.
func guestNetwork(host int, v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix(fmt.Sprintf("fd00:192:168:122::%d/64", host))
	}
	return netip.MustParsePrefix(fmt.Sprintf("192.168.122.%d/24", host))
}

// TestHairpinBehindBridge, of contract 10: a container that shares the node's bridge with others is
// the only endpoint of its own service.
func TestHairpinBehindBridge(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	check(t, s.Nodes[0].AddBridge("virbr0", guestNetwork(1, false), guestNetwork(1, true)))
	guest := s.addGuest(t, 0, false)
	_, err := guest.Serve(podPorts)
	check(t, err)
	own := service{name: "own", number: 1}
	for _, v6 := range bothFamilies {
		check(t, s.manifests.Write(fmt.Sprintf("slice-v6-%t.yaml", v6), sliceYAML(own.name, guestNetwork(5, v6).Addr())))
	}
	s.addService(t, own)
	s.start(t, []service{own})
	c := client(t, guest)
	for _, v6 := range bothFamilies {
		tcp, udp := own.clusterIP(http, v6), own.clusterIP(dns, v6)
		checkAnswers(t, "to itself", guest.Name, exchanges(c, topo.Request{To: tcp}, topo.Request{To: udp}), tcp, udp)
	}
}

// TestDeviceAppears, of contract 45: a NIC appears, and gets its addresses, while the agent runs.
// Until then it has the role of a pod's device.
func TestDeviceAppears(t *testing.T) {
	s, services := localAndRemote(t, modes[1])
	node := s.Nodes[0].Host
	s.start(t, services)
	check(t, s.AddEthernet(s.Laptop, node))
	s.awaitRole(t, "eth1", status.RoleExternal)
	c := client(t, s.Laptop)
	s.routeLBs(t, func(v6 bool) netip.Addr { return second(node, v6) })
	ask(t, "by eth1", c, services, fromAnywhere, service.lb)

	for _, v6 := range bothFamilies {
		bits := 24
		if v6 {
			bits = 64
		}
		check(t, node.DelAddr("eth1", netip.PrefixFrom(second(node, v6), bits)))
	}
	s.awaitRole(t, "eth1", status.RolePod)
}

// TestDeviceProblems, of contract 45: the status names a device that carries packets but has no
// role, and a flag that matches no device. Contradictory flags end the agent at once.
func TestDeviceProblems(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	node, agent := s.Nodes[0].Host, s.agents[0]
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "odd0"
	pair := netlink.NewVeth(attrs)
	pair.PeerName = "odd1"
	check(t, node.Netlink().LinkAdd(pair))
	check(t, errors.Join(node.SetUp("odd0"), node.SetUp("odd1"), node.AwaitCarrier("odd0", "odd1")))
	// Its own neighbour discovery counts as packets, too, but may come late.
	check(t, node.AddAddr("odd1", netip.MustParsePrefix("10.99.0.1/24")))
	check(t, node.Netlink().NeighAdd(&netlink.Neigh{LinkIndex: indexOf(t, node, "odd1"), IP: net.IPv4(10, 99, 0, 2), HardwareAddr: macOf(t, node, "odd0"), State: netlink.NUD_PERMANENT}))
	_ = client(t, node).UDPConnected(topo.Request{To: at("10.99.0.2", 9)})
	check(t, agent.Start("--ignore-devices=nosuch*"))
	for _, want := range []string{
		"device odd0 has no role, so services don't answer there: both of its ends are in this network namespace",
		"--ignore-devices nosuch*: there is no such device",
	} {
		check(t, agent.Await(want, func(st *status.Status) bool { return strings.Contains(strings.Join(st.Warnings, "\n"), want) }))
		shown, err := agent.CLI("status")
		check(t, err)
		if !strings.Contains(shown, want) {
			t.Errorf("the status doesn't say %q:\n%s", want, shown)
		}
	}
	check(t, agent.Stop())
	result, err := agent.RunTwin("--devices=e*0", "--pod-devices=eth*")
	check(t, err)
	if got, want := result.Refusal(), "--devices e*0 and --pod-devices eth*: both name the device eth0"; !strings.HasSuffix(got, want) {
		t.Errorf("contradictory flags: %s, want %s", result, want)
	}
}

func indexOf(t *testing.T, h *topo.Host, device string) int {
	t.Helper()
	link, err := h.Link(device)
	check(t, err)
	return link.Attrs().Index
}

func macOf(t *testing.T, h *topo.Host, device string) net.HardwareAddr {
	t.Helper()
	mac, err := h.MAC(device)
	check(t, err)
	return mac
}
