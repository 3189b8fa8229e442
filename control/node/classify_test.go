// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/status"
)

// some makes a device of a type. The other end of one with "-pod" in its name is in another
// namespace.
func some(kind, name string) *deviceFacts {
	attrs := netlink.LinkAttrs{
		Name: name, EncapType: "ether", NetNsID: -1, Flags: net.FlagUp, Statistics: &netlink.LinkStatistics{RxPackets: 1},
	}
	if strings.Contains(name, "-pod") {
		attrs.NetNsID = 7
	}
	return &deviceFacts{link: &netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}}
}

func (f *deviceFacts) with(edits ...func(*deviceFacts)) *deviceFacts {
	for _, edit := range edits {
		edit(f)
	}
	return f
}

func isPortOf(master *deviceFacts, edits ...func(*deviceFacts)) func(*deviceFacts) {
	return func(f *deviceFacts) {
		f.master = master.with(edits...)
		master.ports = append(master.ports, f)
	}
}

func withPorts(ports ...*deviceFacts) func(*deviceFacts) {
	return func(f *deviceFacts) {
		for _, p := range ports {
			p.with(isPortOf(f))
		}
	}
}

func theNodes(f *deviceFacts) { f.holdsNodeIP = true; subnet(f) }
func defaultVia(f *deviceFacts) {
	f.routes = deviceRoutes{elsewhere: true, gateway: true, isDefault: true}
}
func gatewayFor(f *deviceFacts) { f.routes = deviceRoutes{elsewhere: true, gateway: true} }
func networkOn(f *deviceFacts)  { f.routes.elsewhere = true }
func lower(f *deviceFacts)      { f.isLower = true }
func downNow(f *deviceFacts)    { f.link.Attrs().Flags = 0 }
func single(f *deviceFacts)     { f.addrs = append(f.addrs, netip.MustParseAddr("10.244.0.1")) }
func subnet(f *deviceFacts)     { single(f); f.hasSubnet = true; f.routes.elsewhere = true }

// TestRole, of contract 45 and 57: what a device does decides its role.
func TestRole(t *testing.T) {
	var byItself DeviceRules
	bridge := func() *deviceFacts { return some("bridge", "br0") }
	for _, c := range []struct {
		name  string
		rules DeviceRules
		facts *deviceFacts
		want  status.Role
	}{
		{"the node's address", byItself, some("device", "eth0").with(theNodes), status.RoleExternal},
		{"a default route", byItself, some("device", "eth0").with(defaultVia), status.RoleExternal},
		{"an address", byItself, some("device", "eth1").with(single), status.RoleExternal},
		{"a network without an address", byItself, some("device", "eth1").with(networkOn), status.RoleExternal},
		{"loopback with a node address", byItself, some("device", "lo").with(theNodes), status.RoleNone},
		{"a dummy with a node address", byItself, some("dummy", "kube-ipvs0").with(theNodes), status.RoleNone},
		{"what VLANs are made on", byItself, some("device", "eth0").with(lower), status.RoleNone},
		{"a VLAN", byItself, some("vlan", "eth0.5").with(subnet), status.RoleExternal},
		{"a bond's port", byItself, some("device", "eth0").with(isPortOf(some("bond", "bond0"), theNodes)), status.RoleNone},
		{"a VRF's device", byItself, some("device", "eth0").with(isPortOf(some("vrf", "red")), subnet), status.RoleExternal},
		{"nothing special", byItself, some("device", "eth0"), status.RoleNone},

		{"a pod's", byItself, some("veth", "veth-pod"), status.RolePod},
		{"a pod's, of another type", byItself, some("netkit", "lxc-pod"), status.RolePod},
		{"a pod's, with the gateway's address", byItself, some("veth", "veth-pod").with(single), status.RolePod},
		{"a pod's, in Open vSwitch", byItself, some("veth", "veth-pod").with(isPortOf(some("openvswitch", "ovs-system"))), status.RolePod},
		{"an uplink from another namespace", byItself, some("veth", "eth0-pod").with(defaultVia), status.RoleExternal},
		{"an uplink with a subnet", byItself, some("veth", "eth1-pod").with(subnet), status.RoleExternal},
		{"an uplink with the node's single address", byItself, some("veth", "eth0-pod").with(single, func(f *deviceFacts) { f.holdsNodeIP = true }), status.RoleExternal},
		{"a pair with both ends here", byItself, some("veth", "veth0"), status.RoleNone},
		{"a pair with both ends here, and a subnet", byItself, some("veth", "veth0").with(subnet), status.RoleExternal},

		{"an unused bridge", byItself, bridge().with(subnet), status.RoleNone},
		{"a bridge of pods", byItself, bridge().with(subnet, withPorts(some("veth", "veth-pod"))), status.RolePodBridge},
		{"a bridge that only switches", byItself, bridge().with(withPorts(some("veth", "veth-pod"))), status.RoleNone},
		{"a bridge of virtual machines", byItself, bridge().with(subnet, withPorts(some("tuntap", "vnet0"))), status.RoleExternal},
		{"a bridge of pods and machines", byItself, bridge().with(subnet, withPorts(some("veth", "veth-pod"), some("tuntap", "vnet0"))), status.RoleExternal},
		{"a bridge that is the uplink", byItself, bridge().with(theNodes, withPorts(some("device", "eth0"))), status.RoleExternal},
		{"a bridge that leads on", byItself, bridge().with(subnet, gatewayFor, withPorts(some("veth", "veth-pod"))), status.RoleExternal},
		{"a pod's on a bridge", byItself, some("veth", "veth-pod").with(isPortOf(bridge(), subnet)), status.RolePod},
		{"a virtual machine's on a bridge", byItself, some("tuntap", "vnet0").with(isPortOf(bridge(), subnet)), status.RoleNone},
		{"an uplink's port", byItself, some("device", "eth0").with(isPortOf(bridge(), theNodes)), status.RoleNone},
		{"a pod's on the uplink", byItself, some("veth", "veth-pod").with(isPortOf(bridge(), theNodes, withPorts(some("device", "eth0")))), status.RolePod},
		{"an uplink's port that looks like a pod's", byItself, some("veth", "eth0-pod").with(isPortOf(bridge(), theNodes)), status.RoleNone},

		{"an overlay", byItself, some("vxlan", "flannel.1").with(single, gatewayFor), status.RoleOverlay},
		{"an overlay that is the default route", byItself, some("wireguard", "wg0").with(defaultVia), status.RoleExternal},
		{"an overlay, others being named", rulesOf("eth0", "", ""), some("vxlan", "flannel.1").with(defaultVia), status.RoleOverlay},

		{"a default route, but others are named", rulesOf("eth1", "", ""), some("device", "eth0").with(defaultVia), status.RoleNone},
		{"named", rulesOf("eth?", "", ""), some("device", "eth0"), status.RoleExternal},
		{"ignored", rulesOf("", "", "eth*"), some("device", "eth0").with(defaultVia), status.RoleNone},
		{"named and ignored", rulesOf("eth*", "", "eth0"), some("device", "eth0"), status.RoleNone},
		{"a pod's, but others are named", rulesOf("", "cali*", ""), some("veth", "veth-pod"), status.RoleNone},
		{"pods' are named", rulesOf("", "tap*", ""), some("tuntap", "tap0"), status.RolePod},
		{"a bridge named for its pods", rulesOf("", "br0", ""), bridge().with(subnet, withPorts(some("veth", "veth-pod"))), status.RolePod},
		{"external before pod", rulesOf("veth*", "*0", ""), some("veth", "veth0"), status.RoleExternal},
	} {
		if got, _ := c.rules.role(c.facts); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestWithoutRole, of contract 45: a device that carries packets and has no role is reported.
func TestWithoutRole(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules DeviceRules
		facts *deviceFacts
		want  string
	}{
		{"nothing is known", DeviceRules{}, some("device", "eth1"), "device eth1 has no role, so services don't answer there: it has no addresses, no routes"},
		{"it is down", DeviceRules{}, some("device", "eth1").with(downNow), ""},
		{"it is ignored", DeviceRules{Ignore: []string{"eth1"}}, some("device", "eth1"), ""},
		{"both ends here", DeviceRules{}, some("veth", "veth0"), "device veth0 has no role, so services don't answer there: both of its ends"},
		{"others are named", DeviceRules{External: []string{"eth0"}}, some("device", "eth1").with(subnet), "it leads out of the node, but --devices names others"},
		{"other pods' are named", DeviceRules{Pods: []string{"cali*"}}, some("veth", "veth-pod"), "it leads to a pod, but --pod-devices names others"},
		{"a port", DeviceRules{}, some("device", "eth0").with(isPortOf(some("bridge", "br0"), theNodes)), ""},
		{"an unused bridge", DeviceRules{}, some("bridge", "br0"), ""},
	} {
		_, why := c.rules.role(c.facts)
		got := strings.Join(withoutRole(c.facts, why), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestDeviceRoutes, of contract 45: which routes lead to more than one pod.
func TestDeviceRoutes(t *testing.T) {
	prefix := func(cidr string) *net.IPNet { _, p, _ := net.ParseCIDR(cidr); return p }
	for _, c := range []struct {
		name  string
		route netlink.Route
		want  map[int]deviceRoutes
	}{
		{"default", netlink.Route{LinkIndex: 1, Gw: net.IPv4(10, 0, 0, 1), Table: 254}, map[int]deviceRoutes{1: {elsewhere: true, gateway: true, isDefault: true, inMain: true}}},
		{"default of another table, IPv6", netlink.Route{LinkIndex: 1, Dst: prefix("::/0"), Table: 100}, map[int]deviceRoutes{1: {elsewhere: true, isDefault: true}}},
		{"default by two ways", netlink.Route{MultiPath: []*netlink.NexthopInfo{{LinkIndex: 1, Gw: net.IPv4(10, 0, 0, 1)}, {LinkIndex: 2}}}, map[int]deviceRoutes{1: {elsewhere: true, gateway: true, isDefault: true}, 2: {elsewhere: true, isDefault: true}}},
		{"a network", netlink.Route{LinkIndex: 1, Dst: prefix("10.1.0.0/24")}, map[int]deviceRoutes{1: {elsewhere: true}}},
		{"a pod", netlink.Route{LinkIndex: 1, Dst: prefix("10.1.0.2/32")}, nil},
		{"a pod, by itself", netlink.Route{LinkIndex: 1, Dst: prefix("10.1.0.2/32"), Gw: net.IPv4(10, 1, 0, 2)}, nil},
		{"a host behind another", netlink.Route{LinkIndex: 1, Dst: prefix("10.1.0.2/32"), Gw: net.IPv4(10, 1, 0, 9)}, map[int]deviceRoutes{1: {elsewhere: true, gateway: true}}},
		{"link-local", netlink.Route{LinkIndex: 1, Dst: prefix("fe80::/64")}, nil},
		{"multicast", netlink.Route{LinkIndex: 1, Dst: prefix("ff00::/8")}, nil},
		{"a local address", netlink.Route{LinkIndex: 1, Dst: prefix("10.1.0.0/24"), Type: unix.RTN_LOCAL}, nil},
	} {
		if c.route.Type == 0 {
			c.route.Type = unix.RTN_UNICAST
		}
		got := map[int]deviceRoutes{}
		for _, hop := range hopsOf(c.route) {
			var d deviceRoutes
			d.add(c.route, hop)
			d.onLink = nil // see TestOnLink
			if d.elsewhere {
				got[hop.LinkIndex] = d
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestOverlays(t *testing.T) {
	attrs := netlink.LinkAttrs{Name: "tunnel"}
	v4 := net.IPv4(10, 0, 0, 1)
	for _, link := range []netlink.Link{
		&netlink.Vxlan{LinkAttrs: attrs}, &netlink.Geneve{LinkAttrs: attrs}, &netlink.Iptun{LinkAttrs: attrs},
		&netlink.Ip6tnl{LinkAttrs: attrs}, &netlink.Sittun{LinkAttrs: attrs}, &netlink.Wireguard{LinkAttrs: attrs},
		&netlink.Tuntap{LinkAttrs: attrs}, &netlink.Gretun{LinkAttrs: attrs, Local: v4}, &netlink.Gretap{LinkAttrs: attrs, Local: v4},
		// The library takes tunnels without a local address for IPv6 ones.
		&netlink.Gretun{LinkAttrs: attrs}, &netlink.Gretap{LinkAttrs: attrs},
	} {
		if got, _ := (DeviceRules{}).role(&deviceFacts{link: link}); got != status.RoleOverlay {
			t.Errorf("%s: got %q", link.Type(), got)
		}
	}
}

func TestHasLinkLayer(t *testing.T) {
	for encap, want := range map[string]bool{"ether": true, "none": false, "ipip": false, "tunnel6": false, "sit": false, "": false} {
		if got := hasLinkLayer(&netlink.Device{LinkAttrs: netlink.LinkAttrs{EncapType: encap}}); got != want {
			t.Errorf("%q: got %v", encap, got)
		}
	}
}
