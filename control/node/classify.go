// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
)

// overlayTypes are the link types that carry pods' packets between nodes.
var overlayTypes = map[string]bool{
	"vxlan": true, "geneve": true, "ipip": true, "ip6tnl": true, "sit": true,
	"gre": true, "gretap": true, "ip6gre": true, "ip6gretap": true, "wireguard": true, "tuntap": true,
}

// pairTypes are the link types whose other end may be in a pod.
var pairTypes = map[string]bool{"veth": true, "netkit": true}

// idleTypes are the link types that receive no packets from elsewhere.
var idleTypes = map[string]bool{"dummy": true, "vrf": true, "ifb": true, "nlmon": true}

// role decides the role of a device. why is the reason if a device that carries packets has none.
func (r DeviceRules) role(f *deviceFacts) (role status.Role, why string) {
	name := f.link.Attrs().Name
	switch {
	case name == "lo" || r.Ignores(name):
		return status.RoleNone, ""
	case matches(r.External, name):
		return status.RoleExternal, ""
	case matches(r.Pods, name):
		return status.RolePod, ""
	}
	role, why = r.found(f)
	switch {
	case role == status.RoleExternal && len(r.External) > 0 && overlayTypes[f.link.Type()]:
		return status.RoleOverlay, ""
	case role == status.RoleExternal && len(r.External) > 0:
		return status.RoleNone, "it leads out of the node, but --devices names others"
	case role == status.RolePod && len(r.Pods) > 0 && f.master != nil:
		return status.RoleNone, ""
	case role == status.RolePod && len(r.Pods) > 0:
		return status.RoleNone, "it leads to a pod, but --pod-devices names others"
	}
	return role, why
}

// ExpectPods reports whether a device of the node looks like a pod's. It uses links and addresses alone, before
// the addresses of the Node object are known. So it may be wrong about a device that leads out.
func (r DeviceRules) ExpectPods() (bool, error) {
	var view kernelView
	if err := view.readLinks(); err != nil {
		return false, err
	}
	return slices.ContainsFunc(view.facts(nil).devices, func(f *deviceFacts) bool {
		role, _ := r.role(f)
		return role == status.RolePod
	}), nil
}

// found decides by what a device does, not by its name.
func (r DeviceRules) found(f *deviceFacts) (role status.Role, why string) {
	kind := f.link.Type()
	switch {
	case idleTypes[kind]:
		return status.RoleNone, ""
	case kind == "bridge":
		return r.ofBridge(f), ""
	case f.isPort():
		return f.ofPort(), ""
	case overlayTypes[kind] && !f.holdsNodeIP && !f.routes.isDefault:
		return status.RoleOverlay, ""
	case f.leadsOut():
		return status.RoleExternal, ""
	case f.leadsToPod():
		return status.RolePod, ""
	case pairTypes[kind]:
		return status.RoleNone, "both of its ends are in this network namespace, and it has no addresses and no routes"
	case f.isLower:
		return status.RoleNone, ""
	}
	return status.RoleNone, "it has no addresses, no routes lead there, and it is no other device's port"
}

// ofBridge decides about a bridge. What the node itself sends and gets is seen on the bridge, whatever its ports
// are. Pods behind it are served at its ports, which distinguish one pod from another.
func (r DeviceRules) ofBridge(f *deviceFacts) status.Role {
	switch {
	case f.isUplink():
		return status.RoleExternal
	case len(f.addrs) == 0 && !f.routes.elsewhere || len(f.ports) == 0:
		return status.RoleNone // it only switches, or has no ports in use
	case !slices.ContainsFunc(f.ports, func(port *deviceFacts) bool { role, _ := r.role(port); return role != status.RolePod }):
		return status.RolePodBridge
	}
	return status.RoleExternal
}

// ofPort decides about a port. Its packets are seen on the device that it is a port of, but a pod's packets are
// not always addressed to that device.
func (f *deviceFacts) ofPort() status.Role {
	switch {
	case f.leadsToPod() && !(f.master.isUplink() && f.master.hasPairsOnly()):
		return status.RolePod
	case f.holdsNodeIP || f.routes.elsewhere:
		return status.RoleExternal
	}
	return status.RoleNone
}

// isPort reports whether a device gives its packets to another one. A VRF gets its devices' packets only after
// them.
func (f *deviceFacts) isPort() bool { return f.master != nil && f.master.link.Type() != "vrf" }

// isUplink reports whether a bridge leads farther than to the hosts on it.
func (f *deviceFacts) isUplink() bool { return f.holdsNodeIP || f.routes.gateway || f.routes.isDefault }

// hasPairsOnly reports whether all ports look like pods'. One port of an uplink leads out, so then any of them
// may.
func (f *deviceFacts) hasPairsOnly() bool {
	return !slices.ContainsFunc(f.ports, func(port *deviceFacts) bool { return !pairTypes[port.link.Type()] })
}

// leadsOut reports whether more is behind a device than one pod. CNI plugins give a pod's device a single address
// to be the pod's gateway, and routes to the pod's own addresses.
func (f *deviceFacts) leadsOut() bool {
	if f.holdsNodeIP || f.routes.elsewhere {
		return true
	}
	if pairTypes[f.link.Type()] {
		return f.hasSubnet
	}
	return len(f.addrs) > 0
}

// leadsToPod reports whether a device's other end is in another network namespace.
func (f *deviceFacts) leadsToPod() bool {
	return pairTypes[f.link.Type()] && f.link.Attrs().NetNsID >= 0
}

// carriesPackets reports whether a device is in use.
func (f *deviceFacts) carriesPackets() bool {
	attrs := f.link.Attrs()
	return attrs.Flags&net.FlagUp != 0 && attrs.Statistics != nil && attrs.Statistics.RxPackets > 0
}

// hasLinkLayer reports whether a device's packets begin with an Ethernet header.
func hasLinkLayer(link netlink.Link) bool {
	return strings.HasPrefix(link.Attrs().EncapType, "ether")
}
