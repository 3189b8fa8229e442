// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// plan is the addresses of one family.
type plan struct {
	client, client2 netip.Addr // behind the router
	router          netip.Addr
	vip, vip2       netip.Addr // of services, assigned to no device
	// The node's addresses, by device.
	front, back, slow, tunnel netip.Addr
	// Backends, by the way to them.
	near        netip.Addr // on the device that clients' packets come in by
	far, far2   netip.Addr // on another device, over which XDP may transmit
	unready     netip.Addr // on one over which only tc may transmit
	tunnelled   netip.Addr // on one over which neither may
	silent      netip.Addr // its neighbour entry is not resolved
	moving      netip.Addr // a test changes its neighbour entry
	narrow      netip.Addr // the route to it has a smaller MTU
	narrowSlow  netip.Addr // likewise, where only tc may transmit
	narrowFar   netip.Addr // a client, likewise
	pod, pod2   netip.Addr // on this node
	blackholed  netip.Addr
	unreachable netip.Addr
	// A client whose address has the EtherType where a test run expects it in a
	// packet without a link layer; see l3_test.go.
	headless netip.Addr
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var plan4 = plan{
	client: addr("203.0.113.7"), client2: addr("203.0.113.8"),
	router: addr("198.51.100.254"),
	vip:    addr("172.20.0.10"), vip2: addr("172.20.0.11"),
	front: addr("198.51.100.1"), back: addr("192.0.2.1"),
	slow: addr("10.8.0.1"), tunnel: addr("10.9.0.1"),
	near: addr("198.51.100.20"), far: addr("192.0.2.20"), far2: addr("192.0.2.21"),
	unready: addr("10.8.0.20"), tunnelled: addr("10.9.0.20"),
	silent: addr("192.0.2.99"), moving: addr("192.0.2.30"),
	narrow: addr("192.0.2.40"), narrowSlow: addr("10.8.0.40"), narrowFar: addr("203.0.113.40"),
	pod: addr("10.0.0.5"), pod2: addr("10.0.0.6"),
	blackholed: addr("10.66.0.1"), unreachable: addr("10.67.0.1"),
	headless: addr("8.0.113.7"),
}

var plan6 = plan{
	client: addr("2001:db8:c::7"), client2: addr("2001:db8:c::8"),
	router: addr("2001:db8:f::fe"),
	vip:    addr("2001:db8:5::10"), vip2: addr("2001:db8:5::11"),
	front: addr("2001:db8:f::1"), back: addr("2001:db8:b::1"),
	slow: addr("2001:db8:8::1"), tunnel: addr("2001:db8:9::1"),
	near: addr("2001:db8:f::20"), far: addr("2001:db8:b::20"), far2: addr("2001:db8:b::21"),
	unready: addr("2001:db8:8::20"), tunnelled: addr("2001:db8:9::20"),
	silent: addr("2001:db8:b::99"), moving: addr("2001:db8:b::30"),
	narrow: addr("2001:db8:b::40"), narrowSlow: addr("2001:db8:8::40"), narrowFar: addr("2001:db8:c::40"),
	pod: addr("2001:db8:a::5"), pod2: addr("2001:db8:a::6"),
	blackholed: addr("2001:db8:66::1"), unreachable: addr("2001:db8:67::1"),
	headless: addr("2001:db8:86dd::7"),
}

func planOf(a netip.Addr) plan {
	if a.Is4() {
		return plan4
	}
	return plan6
}

// device is one of the node's devices, with what the maps hold of it.
type device struct {
	name   string
	index  int
	flags  uint32
	addr   func(plan) netip.Addr
	routes func(plan) []netip.Addr // hosts behind it without a network around them
}

// uplink are the flags of a device that leads to clients, and that XDP can
// transmit on.
const uplink = bpf.DeviceTCTransmits | bpf.DeviceXDPTransmits | bpf.DeviceEgressHook | bpf.DeviceEthernet | bpf.DeviceUplink

var (
	front = &device{
		name: "front", index: 10, flags: uplink,
		addr: func(p plan) netip.Addr { return p.front },
	}
	back = &device{
		name: "back", index: 11, flags: uplink,
		addr: func(p plan) netip.Addr { return p.back },
	}
	slow = &device{
		name: "slow", index: 12, flags: bpf.DeviceTCTransmits | bpf.DeviceEgressHook | bpf.DeviceEthernet,
		addr: func(p plan) netip.Addr { return p.slow },
	}
	tunnel = &device{
		name: "tunnel", index: 13, flags: bpf.DeviceEgressHook,
		addr: func(p plan) netip.Addr { return p.tunnel },
	}
	pod0 = &device{
		name: "pod0", index: 14, flags: bpf.DeviceEgressHook | bpf.DevicePod | bpf.DeviceEthernet,
		routes: func(p plan) []netip.Addr { return []netip.Addr{p.pod, p.pod2} },
	}
	allDevices = []*device{front, back, slow, tunnel, pod0}
)

// mac is a device's own address.
func (d *device) mac() net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xde, 0, 0, 0, byte(d.index)}
}

// macOf is a neighbour's address.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	return net.HardwareAddr{0x02, 0xee, b[5], b[13], b[14], b[15]}
}

// variant is a family and a protocol. Nearly every test runs for each.
type variant struct {
	name  string
	proto layers.IPProtocol
	plan
}

var variants = []variant{
	{"tcp4", layers.IPProtocolTCP, plan4},
	{"tcp6", layers.IPProtocolTCP, plan6},
	{"udp4", layers.IPProtocolUDP, plan4},
	{"udp6", layers.IPProtocolUDP, plan6},
	{"sctp4", layers.IPProtocolSCTP, plan4},
	{"sctp6", layers.IPProtocolSCTP, plan6},
}

// Those of each protocol, and those with connections.
var (
	tcpVariants  = variants[0:2]
	udpVariants  = variants[2:4]
	sctpVariants = variants[4:6]
	connected    = slices.Concat(tcpVariants, sctpVariants)
)

func (v variant) isTCP() bool { return v.proto == layers.IPProtocolTCP }
func (v variant) isUDP() bool { return v.proto == layers.IPProtocolUDP }

// any is the address under which NodePorts are stored.
func (v variant) any() netip.Addr {
	if v.client.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
