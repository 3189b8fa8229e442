// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestRole(t *testing.T) {
	named := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name, EncapType: "ether"} }
	eth := &netlink.Device{LinkAttrs: named("eth0")}
	veth := &netlink.Veth{LinkAttrs: named("veth12")}
	for _, c := range []struct {
		name  string
		rules DeviceRules
		facts deviceFacts
		want  Role
	}{
		{"the node's address", DeviceRules{}, deviceFacts{link: eth, holdsNodeIP: true}, RoleExternal},
		{"a default route", DeviceRules{}, deviceFacts{link: eth, defaultRoute: true}, RoleExternal},
		{"nothing special", DeviceRules{}, deviceFacts{link: eth}, RoleNone},
		{"a default route, but others are named", DeviceRules{External: []string{"eth1"}}, deviceFacts{link: eth, defaultRoute: true}, RoleNone},
		{"named", DeviceRules{External: []string{"eth?"}}, deviceFacts{link: eth}, RoleExternal},
		{"ignored", DeviceRules{Ignore: []string{"eth*"}}, deviceFacts{link: eth, defaultRoute: true}, RoleNone},
		{"named and ignored", DeviceRules{External: []string{"eth0"}, Ignore: []string{"eth0"}}, deviceFacts{link: eth}, RoleNone},
		{"loopback with a node address", DeviceRules{}, deviceFacts{link: &netlink.Device{LinkAttrs: named("lo")}, holdsNodeIP: true}, RoleNone},
		{"veth", DeviceRules{}, deviceFacts{link: veth}, RolePod},
		{"veth that is the node's uplink", DeviceRules{}, deviceFacts{link: veth, defaultRoute: true}, RoleExternal},
		{"veth, but pods' are named", DeviceRules{Pods: []string{"cali*"}}, deviceFacts{link: veth}, RoleNone},
		{"pods' are named", DeviceRules{Pods: []string{"tap*"}}, deviceFacts{link: &netlink.Tuntap{LinkAttrs: named("tap0")}}, RolePod},
		{"external before pod", DeviceRules{External: []string{"veth*"}, Pods: []string{"veth*"}}, deviceFacts{link: veth}, RoleExternal},
		{"a bridge", DeviceRules{}, deviceFacts{link: &netlink.Bridge{LinkAttrs: named("cni0")}}, RoleNone},
		{"an overlay that is the default route", DeviceRules{}, deviceFacts{link: &netlink.Wireguard{LinkAttrs: named("wg0")}, defaultRoute: true}, RoleExternal},
		{"an overlay, others being named", DeviceRules{External: []string{"eth0"}}, deviceFacts{link: &netlink.Vxlan{LinkAttrs: named("flannel.1")}, defaultRoute: true}, RoleOverlay},
	} {
		if got := c.rules.role(c.facts); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
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
		// The library takes those without a local address for the IPv6 ones.
		&netlink.Gretun{LinkAttrs: attrs}, &netlink.Gretap{LinkAttrs: attrs},
	} {
		if got := (DeviceRules{}).role(deviceFacts{link: link}); got != RoleOverlay {
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

func TestDeviceRulesValidate(t *testing.T) {
	for flag, rules := range map[string]DeviceRules{
		"--devices": {External: []string{"eth0", "[x"}}, "--pod-devices": {Pods: []string{"[x"}}, "--ignore-devices": {Ignore: []string{"[x"}},
	} {
		if err := rules.Validate(); err == nil || !strings.HasPrefix(err.Error(), flag+": ") || !strings.Contains(err.Error(), `"[x"`) {
			t.Errorf("%s: got error %v", flag, err)
		}
	}
	if err := (DeviceRules{External: []string{"eth[0-9]"}, Pods: []string{"*"}}).Validate(); err != nil {
		t.Error(err)
	}
}
