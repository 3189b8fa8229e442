// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
)

// Limits are the settings of a node. Times are in seconds.
type Limits struct {
	SNATMin, SNATMax         uint16
	NodePortMin, NodePortMax uint16
	MasqueradeAll            bool
	AnswerPing               bool

	New, UDP, TCP, HalfClosed, Closed, Reset int
}

// Frontend is an address of a service; NodePorts have the unspecified one.
type Frontend struct {
	Addr  netip.AddrPort
	Proto uint8
}

// Kind is the kind of a frontend. It decides whether the client's address is
// kept and which clients are let in.
type Kind int

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	NodePort
	ExternalIP
	LoadBalancer
)

// Policy is the behaviour of one frontend of a service.
type Policy struct {
	Service       *Service
	Kind          Kind
	ExternalLocal bool // externalTrafficPolicy, or that of clients outside the node
	InternalLocal bool
}

// Service is a service port.
type Service struct {
	ID       uint32
	Affinity int            // seconds; 0: none
	Ranges   []netip.Prefix // the clients of load balancer addresses; none: all
	Backends []uint32       // all backends that it knows
}

// Backend is an endpoint of one service port.
type Backend struct {
	ID                uint32
	Service           uint32
	Addr              netip.AddrPort
	Local             bool // on this node
	InCluster, InSelf bool // in the set of all endpoints, of those on this node
	Kept              bool // in no set, but it still serves its flows
}

// Device is one of the node's devices.
type Device struct {
	Index        int
	MAC          [6]byte
	Addr4, Addr6 netip.Addr // SNAT's addresses there; invalid: the node's own
	Express      bool       // tc may send past the stack
	XDP          bool       // XDP may transmit
	Egress       bool       // a program sees packets that leave
	Pod          bool       // a pod is behind it
	Uplink       bool       // replies leave by it if their requests came in by it
}

// Route is the kernel's route to an address.
type Route struct {
	Device   int // 0: there is none
	MTU      int
	Via      netip.Addr // the neighbour
	Resolved bool       // its MAC is known
	MAC      [6]byte
}

// Config is all that the programs know from the agent and from the kernel's
// tables.
type Config struct {
	Limits
	Devices            map[int]*Device
	Primary4, Primary6 netip.Addr
	NodeAddrs          map[netip.Addr]bool // true: NodePorts answer there
	Frontends          map[Frontend]*Policy
	Backends           map[uint32]*Backend
	Local              []netip.Prefix // the cluster's own sources
	ClusterAddrs       map[netip.Addr]bool
	ClusterRanges      map[netip.Prefix]bool // true: a service CIDR
	Generation         uint32                // of routes and devices
	Route              func(netip.Addr) Route
	Leads              func(device int, a netip.Addr) bool // there is a route by the device
}

// IsOwn reports whether an address is the node's.
func (c *Config) IsOwn(a netip.Addr) bool {
	_, own := c.NodeAddrs[a]
	return own
}

// frontend finds the frontend of an address: an exact one first, then NodePorts
// of the node's.
func (c *Config) frontend(a netip.AddrPort, proto uint8) *Policy {
	if p := c.Frontends[Frontend{a, proto}]; p != nil {
		return p
	}
	if a.Port() < c.NodePortMin || a.Port() > c.NodePortMax || !c.NodeAddrs[a.Addr()] {
		return nil
	}
	any := netip.IPv4Unspecified()
	if a.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	return c.Frontends[Frontend{netip.AddrPortFrom(any, a.Port()), proto}]
}

// candidates are the backends that a frontend may lead to.
func (c *Config) candidates(p *Policy, inside bool) []*Backend {
	var found []*Backend
	for _, id := range p.Service.Backends {
		if b := c.Backends[id]; c.inScope(p, b, inside) {
			found = append(found, b)
		}
	}
	return found
}

// inScope reports whether a backend is in the set that the policy in force
// selects.
func (c *Config) inScope(p *Policy, b *Backend, inside bool) bool {
	local := p.ExternalLocal
	if inside {
		local = p.InternalLocal
	}
	if b == nil || b.Service != p.Service.ID {
		return false
	}
	if local {
		return b.InSelf
	}
	return b.InCluster
}

// elsewhere reports whether there are endpoints, even if not for this client.
func (c *Config) elsewhere(p *Policy) bool {
	for _, id := range p.Service.Backends {
		if b := c.Backends[id]; b != nil && b.Service == p.Service.ID && (b.InCluster || b.InSelf) {
			return true
		}
	}
	return false
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// admits reports whether a client may use the frontend. Source ranges are for
// load balancer addresses only, and a family without any is open.
func (p *Policy) admits(a netip.Addr) bool {
	if p.Kind != LoadBalancer || !p.HasRanges(a.Is6()) {
		return true
	}
	return contains(p.Service.Ranges, a)
}

// HasRanges reports whether there are source ranges of a family.
func (p *Policy) HasRanges(v6 bool) bool {
	for _, r := range p.Service.Ranges {
		if r.Addr().Is6() == v6 {
			return true
		}
	}
	return false
}

// snatAddr is the source that SNAT gives to packets that leave by a device.
func (c *Config) snatAddr(device int, v6 bool) netip.Addr {
	a, fallback := netip.Addr{}, c.Primary4
	if d := c.Devices[device]; d != nil {
		a = d.Addr4
		if v6 {
			a = d.Addr6
		}
	}
	if v6 {
		fallback = c.Primary6
	}
	if !a.IsValid() {
		return fallback
	}
	return a
}
