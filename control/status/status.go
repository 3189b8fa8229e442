// SPDX-License-Identifier: Apache-2.0

// Package status is the status that an agent writes to a file, which can still be read when the
// agent is gone. It does not import the agent's packages, so that readers don't need them.
package status

import (
	"time"
)

// Status is the contents of the file.
type Status struct {
	PID      int        `json:"pid"`
	Version  string     `json:"version"`
	Node     string     `json:"node"`
	PinDir   string     `json:"pinDir"` // the process that holds it is the agent, see loader.Held
	Source   string     `json:"source"`
	Blind    *Blindness `json:"blind,omitempty"`
	Started  time.Time  `json:"started"`
	Written  time.Time  `json:"written,omitzero"` // when it was last known to be right; not in the file, but its time
	Proxy    Proxy      `json:"proxy"`
	Devices  []Device   `json:"devices"`
	Links    []Link     `json:"links"`
	Flows    FlowCensus `json:"flows"`
	Problems []Problem  `json:"problems,omitempty"`
	Held     []string   `json:"held,omitempty"`  // Services that the source keeps though they are gone
	Pools    bool       `json:"pools,omitempty"` // the source follows pools of addresses
	// Addresses are the addresses of pools that Services have.
	Addresses []Address `json:"addresses,omitempty"`
	Names     *Names    `json:"names,omitempty"` // nil: names of Services are not answered here
	// Announces: the agent announces addresses, or would.
	Announces bool     `json:"announces,omitempty"`
	Members   []Member `json:"members,omitempty"`  // the other agents that announce addresses
	Warnings  []string `json:"warnings,omitempty"` // may keep something from working
	Notices   []string `json:"notices,omitempty"`  // good to know
}

// Names is what the agent says of the names of Services that it answers. Its counts are of queries since the agent
// started.
type Names struct {
	Domain    string            `json:"domain"`    // of the cluster, as in "cluster.local"
	Addresses []string          `json:"addresses"` // at which it answers; none, if others have them
	Resolvers []string          `json:"resolvers"` // that other names are asked of, in that order
	Queries   map[string]uint64 `json:"queries"`   // by protocol: udp, tcp
	Answers   map[string]uint64 `json:"answers"`   // by response code, as in "NXDOMAIN"
	Forwarded uint64            `json:"forwarded"` // of them, those that other resolvers were to answer
}

// Blindness says since when, and why, the source does not see changes.
type Blindness struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// Equal reports whether two are the same; nil: the source sees changes.
func (b *Blindness) Equal(other *Blindness) bool {
	if b == nil || other == nil {
		return b == other
	}
	return b.Since.Equal(other.Since) && b.Why == other.Why
}

// Proxy is the status of the proxy.
type Proxy struct {
	Synced   bool      `json:"synced"`   // the source has delivered everything once
	LastSync time.Time `json:"lastSync"` // zero before the first
	Services int       `json:"services"` // service ports in the maps, of both families
	Failures []string  `json:"failures,omitempty"`
}

// Role is the role of a device for the datapath.
type Role string

// The roles of devices.
const (
	RoleNone      Role = ""
	RoleExternal  Role = "external"   // where clients outside and other nodes are
	RoleOverlay   Role = "overlay"    // a tunnel that the CNI plugin routes pods' packets into
	RolePod       Role = "pod"        // the host's side of a pod's device
	RolePodBridge Role = "pod-bridge" // a bridge whose ports are pods' devices: these have the programs
)

// XDPNative is the only mode of XDP in use. A Device with any other value of XDP has no XDP program; the
// value is the reason.
const XDPNative = "native"

// Device is the status of one device.
type Device struct {
	Name    string `json:"name"`
	Ifindex int    `json:"ifindex"`
	Role    Role   `json:"role"`
	XDP     string `json:"xdp"` // mode, or why there is none
	TC      string `json:"tc"`
	Express bool   `json:"express"`
	Addr4   string `json:"addr4,omitempty"`
	Addr6   string `json:"addr6,omitempty"`
}

// Link is one attachment of a program, as the kernel sees it.
type Link struct {
	Hook      string `json:"hook"`             // "xdp", "tc-ingress", "tc-egress", "connect4", ...
	Kind      string `json:"kind"`             // "xdp-native", "tcx", "clsact", "cgroup"
	Device    string `json:"device,omitempty"` // empty for sockets, and if the device is gone
	Ifindex   int    `json:"ifindex,omitempty"`
	Cgroup    string `json:"cgroup,omitempty"` // sockets only; empty if the cgroup is gone
	Program   string `json:"program"`
	ProgramID uint32 `json:"programID"`
	LinkID    uint32 `json:"linkID,omitempty"` // 0 for clsact
	Attached  bool   `json:"attached"`         // the device or cgroup confirms that it runs this program
}

// FlowCensus is what the last walks over the flow tables found.
type FlowCensus struct {
	IPv4    FamilyCensus `json:"ipv4"`
	IPv6    FamilyCensus `json:"ipv6"`
	Expired uint64       `json:"expired"` // records, since the agent started
}

// FamilyCensus counts the records of one family.
type FamilyCensus struct {
	Confirmed   uint32 `json:"confirmed"`
	Unconfirmed uint32 `json:"unconfirmed"` // they give way to new ones
}

// Address is an address of a pool that one or more Services have.
type Address struct {
	Address string `json:"address"`
	// Pool is the kind and namespace/name of the pool, as in "IPAddressPool metallb-system/first".
	Pool string `json:"pool"`
	// PoolGone: that pool no longer has the address.
	PoolGone bool      `json:"poolGone,omitempty"`
	Services []string  `json:"services"`       // namespace/name, in order; several share it
	Since    time.Time `json:"since,omitzero"` // when the first of them got it, if that is known
	// Announced is nil where no document has the address announced.
	Announced *Announced `json:"announced,omitempty"`
}

// Announced is who answers ARP requests and neighbour solicitations for an address.
type Announced struct {
	Holder string    `json:"holder,omitempty"` // node; empty: none
	Since  time.Time `json:"since,omitzero"`
	Why    string    `json:"why"` // that node, or none
}

// Member is another agent that announces addresses.
type Member struct {
	Name  string `json:"name"`  // of its node; the address of one that has never answered
	State string `json:"state"` // for people
}

// Problem is a fault of one object. The last good state of that object stays in force.
type Problem struct {
	// File and Document (counted from 1) say where the object was read; empty if it was not read from a
	// file.
	File     string `json:"file,omitempty"`
	Document int    `json:"document,omitempty"`
	// Object is kind and namespace/name, as in "Service default/web".
	Object string `json:"object,omitempty"`
	// Field is the path of the field at fault, as in "spec.ports[0].nodePort".
	Field   string    `json:"field,omitempty"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}
