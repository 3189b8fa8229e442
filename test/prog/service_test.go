// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// service is a frontend and the backends of each scope.
type service struct {
	frontend           netip.AddrPort
	proto              layers.IPProtocol
	flags              uint32
	affinity           uint32 // seconds
	external, internal []netip.AddrPort
}

// serve gives a frontend the same backends in both scopes.
func (n *node) serve(v variant, frontend netip.AddrPort, backends ...netip.AddrPort) uint32 {
	n.t.Helper()
	return n.publish(service{frontend: frontend, proto: v.proto, external: backends, internal: backends})
}

func (n *node) publish(s service) uint32 {
	n.t.Helper()
	n.services++
	id := 100 + n.services
	value := bpf.Service{
		Id: id, Flags: s.flags, Affinity: s.affinity,
		External: n.scope(id, s.proto, s.external),
		Internal: n.scope(id, s.proto, s.internal),
	}
	n.put("service_stats", id, bpf.ServiceCounters{})
	n.putFrontend(s.frontend, s.proto, value)
	n.last = value
	return id
}

func (n *node) putFrontend(frontend netip.AddrPort, proto layers.IPProtocol, value bpf.Service) {
	n.t.Helper()
	a, port := frontend.Addr(), netPort(frontend.Port())
	if a.Is4() {
		n.put("services4", bpf.ServiceKey4{Addr: word(a), Port: port, Proto: uint8(proto)}, value)
	} else {
		n.put("services6", bpf.ServiceKey6{Addr: words(a), Port: port, Proto: uint8(proto)}, value)
	}
}

// also gives the service that was published last another frontend.
func (n *node) also(frontend netip.AddrPort, proto layers.IPProtocol, flags uint32) {
	n.t.Helper()
	value := n.last
	value.Flags = flags
	n.putFrontend(frontend, proto, value)
}

func (n *node) scope(service uint32, proto layers.IPProtocol, backends []netip.AddrPort) bpf.Scope {
	n.t.Helper()
	block := bpf.Scope{First: n.slots, Count: uint32(len(backends))}
	for _, b := range backends {
		n.backends++
		n.put("backends", n.backends, bpf.Backend{
			Addr: words(b.Addr()), Port: netPort(b.Port()),
			Service: service, Proto: uint8(proto), Flags: backendFlags(b.Addr()),
		})
		n.put("backend_stats", n.backends, bpf.FlowCounters{Service: service})
		n.put("slots", n.slots, n.backends)
		n.slots++
	}
	return block
}

func backendFlags(a netip.Addr) uint8 {
	f := bpf.BackendInClusterSet | bpf.BackendInLocalSet
	if a.Is6() {
		f |= bpf.BackendIPv6
	}
	if p := planOf(a); a == p.pod || a == p.pod2 {
		f |= bpf.BackendLocal
	}
	return f
}
