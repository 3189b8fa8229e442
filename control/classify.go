// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/vishvananda/netlink"
)

// Role is what a device is to the datapath.
type Role string

// The roles of devices.
const (
	RoleNone     Role = ""
	RoleExternal Role = "external" // where clients outside and other nodes are
	RoleOverlay  Role = "overlay"  // a tunnel that the CNI plugin routes pods' packets into
	RolePod      Role = "pod"      // the host's side of a pod's device
)

// overlayTypes are the link types that carry pods' packets between nodes.
var overlayTypes = map[string]bool{
	"vxlan": true, "geneve": true, "ipip": true, "ip6tnl": true, "sit": true,
	"gre": true, "gretap": true, "ip6gre": true, "ip6gretap": true, "wireguard": true, "tuntap": true,
}

// DeviceRules tell the roles of devices. The patterns are those of path.Match; where one names
// a device, it decides.
type DeviceRules struct {
	External []string // none: whatever holds a node address or carries a default route
	Pods     []string // none: veth devices
	Ignore   []string
}

// Validate checks the patterns.
func (r DeviceRules) Validate() error {
	for flag, patterns := range map[string][]string{"devices": r.External, "pod-devices": r.Pods, "ignore-devices": r.Ignore} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("--%s: bad pattern %q", flag, p)
			}
		}
	}
	return nil
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}

// deviceFacts is what the role of a device hangs on.
type deviceFacts struct {
	link         netlink.Link
	local        []netip.Addr // what the node answers to, but for the link's and the loopback's own
	addrs        []netip.Addr // those of them that are of global scope
	holdsNodeIP  bool
	defaultRoute bool
}

// role decides what a device is.
func (r DeviceRules) role(f deviceFacts) Role {
	attrs := f.link.Attrs()
	switch {
	case attrs.Name == "lo" || matches(r.Ignore, attrs.Name):
		return RoleNone
	case matches(r.External, attrs.Name):
		return RoleExternal
	case matches(r.Pods, attrs.Name):
		return RolePod
	case len(r.External) == 0 && (f.holdsNodeIP || f.defaultRoute):
		return RoleExternal
	case overlayTypes[f.link.Type()]:
		return RoleOverlay
	case len(r.Pods) == 0 && f.link.Type() == "veth":
		return RolePod
	}
	return RoleNone
}

// hasLinkLayer tells whether a device's packets begin with an Ethernet header.
func hasLinkLayer(link netlink.Link) bool {
	return strings.HasPrefix(link.Attrs().EncapType, "ether")
}
