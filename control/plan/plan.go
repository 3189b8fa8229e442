// SPDX-License-Identifier: Apache-2.0

// Package plan computes what the maps should hold from Kubernetes objects, which kube-proxy's own
// library has processed. It is pure: objects in, desired contents out.
package plan

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/waggle-lb/waggle/maps"
)

// Endpoint is a backend that a service should have.
type Endpoint struct {
	Addr  netip.Addr // unmapped: IPv4 in 4 bytes
	Port  uint16
	Local bool // on this node
}

// Set is one of the two sets of endpoints that a service port can have.
type Set int

// The sets of a service port.
const (
	Cluster Set = iota // endpoints anywhere
	Local              // endpoints on this node
)

// Scope says which endpoints clients of one kind get.
type Scope struct {
	Set  Set  // index of Service.Endpoints
	Drop bool // Set is empty by policy, not for want of endpoints: drop, don't refuse
}

// Frontend is an address that a service port answers on.
type Frontend struct {
	maps.Frontend // the unspecified address for a NodePort
	Kind          maps.Kind
	External      Scope // clients outside the node
	Internal      Scope // its pods and processes
	Guarded       bool  // only for clients in the service's SourceRanges
}

// Service is the desired state of one service port in one family. The reconciler neither changes
// it nor keeps a part of it.
type Service struct {
	Name      maps.Name
	Frontends []Frontend    // each address, port and protocol once; the most specific kind first
	Endpoints [2][]Endpoint // by Set, sorted
	// Kept are all endpoints of a UDP service that serve. Only an endpoint that no longer serves
	// loses its flows, not one that a policy, its zone or its termination takes out of the sets.
	Kept []Endpoint
	// Type is the part of the Service's type that the frontends don't show.
	Type maps.Type
	// SourceRanges are the clients that guarded frontends are for, sorted.
	SourceRanges []netip.Prefix
	// Affinity is the number of seconds that a client is remembered for; 0: not at all.
	Affinity uint32
}

// Node is the state of the node that the plan is for.
type Node struct {
	Name   string            // of our Node object
	Labels map[string]string // of our Node object: its zone is among them
	IPs    []netip.Addr      // the node's primary addresses
	// Assigned are all addresses of its devices, as node.Devices found them last; the map does not change. A
	// cluster IP among them is left to the process that listens there, such as NodeLocal DNSCache.
	Assigned map[netip.Addr]bool
}

// Plan computes the desired state of one service port.
func Plan(name proxy.ServicePortName, family maps.Family, port proxy.ServicePort, endpoints []proxy.Endpoint, node Node) Service {
	cluster, local, _, any := proxy.CategorizeEndpoints(endpoints, port, node.Name, node.Labels)
	svc := Service{Name: NameOf(name, family), SourceRanges: sourceRanges(port, node.IPs)}
	if typed, ok := port.(interface{ Type() maps.Type }); ok {
		svc.Type = typed.Type()
	}
	if port.SessionAffinityType() == v1.ServiceAffinityClientIP {
		svc.Affinity = uint32(port.StickyMaxAgeSeconds())
	}
	svc.Endpoints[Cluster] = convert(cluster)
	svc.Endpoints[Local] = convert(local)
	if svc.Name.Proto == unix.IPPROTO_UDP {
		svc.Kept = convert(slices.DeleteFunc(slices.Clone(endpoints), func(e proxy.Endpoint) bool { return !e.IsServing() }))
	}

	scope := func(localOnly bool) Scope {
		if !localOnly {
			return Scope{Set: Cluster}
		}
		return Scope{Set: Local, Drop: any && len(local) == 0}
	}
	internal := scope(port.InternalPolicyLocal())
	external := scope(port.ExternalPolicyLocal())
	proto := svc.Name.Proto
	add := func(kind maps.Kind, ip net.IP, number int, external, internal Scope) {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok || kind == maps.ClusterIP && node.Assigned[addr.Unmap()] {
			return
		}
		f := maps.Frontend{Addr: addr.Unmap(), Port: uint16(number), Proto: proto}
		if slices.ContainsFunc(svc.Frontends, func(have Frontend) bool { return have.Frontend == f }) {
			return // one element holds it; the kind that was added first is more specific
		}
		guarded := kind == maps.LoadBalancer && len(port.LoadBalancerSourceRanges()) > 0
		svc.Frontends = append(svc.Frontends, Frontend{f, kind, external, internal, guarded})
	}
	add(maps.ClusterIP, port.ClusterIP(), port.Port(), internal, internal)
	for _, ip := range port.LoadBalancerVIPs() {
		add(maps.LoadBalancer, ip, port.Port(), external, Scope{Set: Cluster})
	}
	for _, ip := range port.ExternalIPs() {
		add(maps.ExternalIP, ip, port.Port(), external, Scope{Set: Cluster})
	}
	if port.NodePort() != 0 {
		add(maps.NodePort, family.Any().AsSlice(), port.NodePort(), external, Scope{Set: Cluster})
	}
	return svc
}

// NameOf returns the name of a service port in the maps.
func NameOf(name proxy.ServicePortName, family maps.Family) maps.Name {
	return maps.Name{
		Namespace: name.Namespace,
		Name:      name.Name,
		Port:      name.Port,
		Proto:     protoNumber(name.Protocol),
		Family:    family,
	}
}

// PortName returns the service port with a name in the maps. It is the inverse of NameOf.
func PortName(name maps.Name) proxy.ServicePortName {
	return proxy.ServicePortName{
		NamespacedName: types.NamespacedName{Namespace: name.Namespace, Name: name.Name},
		Port:           name.Port,
		Protocol:       v1.Protocol(maps.ProtoName(name.Proto)),
	}
}

func protoNumber(p v1.Protocol) uint8 {
	switch p {
	case v1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case v1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func convert(endpoints []proxy.Endpoint) []Endpoint {
	out := make([]Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		if addr, ok := addrOf(e); ok {
			out = append(out, Endpoint{addr, uint16(e.Port()), e.IsLocal()})
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// addrOf returns the address of an endpoint. The endpoint may have it in a better form than the
// library's.
func addrOf(e proxy.Endpoint) (netip.Addr, bool) {
	if known, ok := e.(interface{ Addr() netip.Addr }); ok {
		return known.Addr(), true
	}
	addr, err := netip.ParseAddr(e.IP())
	return addr.Unmap(), err == nil
}
