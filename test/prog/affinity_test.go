// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const affinitySeconds = 10800 // the default of services

// many returns so many backends that none is chosen twice in a row by chance.
func many(a netip.Addr) []netip.AddrPort {
	var out []netip.AddrPort
	for port := range uint16(100) {
		out = append(out, at(a, 8000+port))
	}
	return out
}

// TestAffinity, of contract 27: a client's new flows go where its last one went, at every frontend
// and hook, and from every port. Another client's go elsewhere.
func TestAffinity(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.publish(service{frontend: at(v.vip, 80), proto: v.proto, affinity: affinitySeconds,
			external: many(v.pod), internal: many(v.pod)})
		n.also(at(v.any(), nodePort), v.proto, bpf.ServiceNodePort)
		n.also(at(v.vip2, 80), v.proto, bpf.ServiceLoadBalancer)
		frontends := []netip.AddrPort{at(v.vip, 80), at(v.front, nodePort), at(v.vip2, 80)}
		ask := map[bpf.Hook]func(packet) result{
			bpf.HookTCIngress: func(p packet) result { return n.ingress(front, p) },
			bpf.HookTCPod:     func(p packet) result { return n.podIngress(pod0, p) },
			bpf.HookXDP: func(p packet) result { // it records the flow, and leaves the rest to tc
				n.xdp(front, p).passed(bpf.VerdictLeftToTC)
				return n.ingress(front, p)
			},
		}
		chosen := map[netip.Addr]netip.AddrPort{}
		port := uint16(20000)
		for _, frontend := range frontends {
			for hook, ask := range ask {
				for _, client := range []netip.Addr{v.client, v.client2, v.near} {
					port++
					r := ask(v.packet(at(client, port), frontend))
					_, dst := addresses(r.out)
					if was, ok := chosen[client]; ok && was != dst {
						t.Errorf("%s, %s, from %s: %s, but %s before", bpf.HookName(hook), frontend, client, dst, was)
					}
					chosen[client] = dst
				}
			}
		}
		if chosen[v.client] == chosen[v.client2] && chosen[v.client] == chosen[v.near] {
			t.Errorf("all clients are led to %s", chosen[v.client])
		}
	})
}

// sticky is a service with affinity, and a client that it has led to `last`. This backend is in its
// sets but not in its slots: only affinity chooses it.
type sticky struct {
	*node
	variant
	id, backend uint32
	last        netip.AddrPort
}

func newSticky(t *testing.T, v variant, seconds, flags uint32) *sticky {
	t.Helper()
	s := &sticky{node: newNode(t), variant: v, last: at(v.pod, 9999)}
	chosen := []netip.AddrPort{at(v.pod, backendPort), at(v.pod2, backendPort)}
	s.id = s.publish(service{frontend: at(v.vip, 80), proto: v.proto, affinity: seconds, flags: flags, external: chosen, internal: chosen})
	s.backends++
	s.backend = s.backends
	s.putBackend(func(*bpf.Backend) {})
	s.remember(func(*bpf.AffinityEntry) {})
	return s
}

func (s *sticky) putBackend(change func(*bpf.Backend)) {
	s.t.Helper()
	b := bpf.Backend{Addr: words(s.last.Addr()), Port: netPort(s.last.Port()), Service: s.id,
		Proto: uint8(s.proto), Flags: backendFlags(s.last.Addr())}
	change(&b)
	s.put("backends", s.backend, b)
}

func (s *sticky) key() bpf.AffinityKey {
	return bpf.AffinityKey{Service: s.id, Addr: words(s.client)}
}

func (s *sticky) remember(change func(*bpf.AffinityEntry)) {
	s.t.Helper()
	entry := bpf.AffinityEntry{Backend: s.backend, LastUsed: s.jiffies(), Addr: words(s.last.Addr()), Port: netPort(s.last.Port())}
	change(&entry)
	s.put("affinity", s.key(), entry)
}

func (s *sticky) remembered() (entry bpf.AffinityEntry) {
	s.t.Helper()
	if err := s.maps["affinity"].Lookup(s.key(), &entry); err != nil {
		s.t.Fatal(err)
	}
	return entry
}

func (s *sticky) ask(hook bpf.Hook, port uint16) netip.AddrPort {
	s.t.Helper()
	p := s.packet(at(s.client, port), at(s.vip, 80))
	r := s.podIngress
	if hook == bpf.HookTCIngress {
		r = s.ingress
	}
	_, dst := addresses(r(pod0, p).out)
	return dst
}

// TestAffinityHolds: affinity holds as long as the client was here within the timeout, and the
// backend is unchanged and may be chosen here.
func TestAffinityHolds(t *testing.T) {
	const seconds = 100
	for _, c := range []struct {
		name    string
		seconds uint32
		flags   uint32
		backend func(*bpf.Backend)
		entry   func(*bpf.AffinityEntry)
		want    map[bpf.Hook]bool
	}{
		{name: "fresh", seconds: seconds, want: map[bpf.Hook]bool{bpf.HookTCIngress: true, bpf.HookTCPod: true}},
		{name: "no affinity"},
		{name: "just in time", seconds: seconds, want: map[bpf.Hook]bool{bpf.HookTCIngress: true, bpf.HookTCPod: true},
			entry: func(e *bpf.AffinityEntry) { e.LastUsed -= (seconds - 1) * second }},
		{name: "too late", seconds: seconds, entry: func(e *bpf.AffinityEntry) { e.LastUsed -= seconds*second + 1 }},
		{name: "out of all sets", seconds: seconds, backend: func(b *bpf.Backend) { b.Flags &= bpf.BackendLocal | bpf.BackendIPv6 }},
		{name: "gone", seconds: seconds, backend: func(b *bpf.Backend) { *b = bpf.Backend{} }},
		{name: "another service's", seconds: seconds, backend: func(b *bpf.Backend) { b.Service++ }},
		{name: "at another address", seconds: seconds, backend: func(b *bpf.Backend) { b.Addr[0]++ }},
		{name: "at another port", seconds: seconds, backend: func(b *bpf.Backend) { b.Port++ }},
		{name: "in the Cluster set only", seconds: seconds, flags: bpf.ServiceExternalLocal, want: map[bpf.Hook]bool{bpf.HookTCPod: true},
			backend: func(b *bpf.Backend) { b.Flags &^= bpf.BackendInLocalSet }},
		{name: "in the Local set only", seconds: seconds, flags: bpf.ServiceExternalLocal, want: map[bpf.Hook]bool{bpf.HookTCIngress: true},
			backend: func(b *bpf.Backend) { b.Flags &^= bpf.BackendInClusterSet }},
		{name: "in the Local set only, inside", seconds: seconds, flags: bpf.ServiceInternalLocal, want: map[bpf.Hook]bool{bpf.HookTCPod: true},
			backend: func(b *bpf.Backend) { b.Flags &^= bpf.BackendInClusterSet }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range variants[:2] {
				for i, hook := range []bpf.Hook{bpf.HookTCIngress, bpf.HookTCPod} {
					s := newSticky(t, v, c.seconds, c.flags)
					if c.backend != nil {
						s.putBackend(c.backend)
					}
					if c.entry != nil {
						s.remember(c.entry)
					}
					got := s.ask(hook, 30000+uint16(i))
					if held := got == s.last; held != c.want[hook] {
						t.Errorf("%s, %s: led to %s, affinity held: %t", v.name, bpf.HookName(hook), got, held)
					}
					if c.seconds > 0 {
						e := s.remembered()
						equal(t, "remembered address", words(got.Addr()), e.Addr)
						equal(t, "remembered port", netPort(got.Port()), e.Port)
					}
				}
			}
		})
	}
}

// TestAffinityRenewed: each new flow renews it, and no other packet does.
func TestAffinityRenewed(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		s := newSticky(t, v, affinitySeconds, 0)
		old := s.remembered().LastUsed - 100*second
		s.remember(func(e *bpf.AffinityEntry) { e.LastUsed = old })
		equal(t, "backend", s.last, s.ask(bpf.HookTCPod, 30000))
		if s.remembered().LastUsed == old {
			t.Error("a new flow did not renew it")
		}
		s.remember(func(e *bpf.AffinityEntry) { e.LastUsed = old })
		equal(t, "backend", s.last, s.ask(bpf.HookTCPod, 30000))
		equal(t, "last used, after a packet of a known flow", old, s.remembered().LastUsed)
	})
}

// TestReusedSlot: a program that was held up for longer than the maps' grace period reads a slot
// whose backend belongs to another service, or is gone. The packet must not go there.
func TestReusedSlot(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, seconds := range []uint32{0, affinitySeconds} {
			for name, change := range map[string]func(*bpf.Backend){
				"free":              func(b *bpf.Backend) { *b = bpf.Backend{} },
				"another service's": func(b *bpf.Backend) { b.Service++ },
			} {
				n := newNode(t)
				id := n.publish(service{frontend: at(v.vip, 80), proto: v.proto, affinity: seconds,
					external: []netip.AddrPort{at(v.pod, backendPort)}, internal: []netip.AddrPort{at(v.pod, backendPort)}})
				for backend := uint32(1); backend <= n.backends; backend++ {
					b := bpf.Backend{Addr: words(v.pod), Port: netPort(backendPort), Service: id,
						Proto: uint8(v.proto), Flags: backendFlags(v.pod)}
					change(&b)
					n.put("backends", backend, b)
				}
				p := v.packet(at(v.client, clientPort), at(v.vip, 80))
				p.noDeviceSum = true // the refusal quotes less of it
				n.xdp(front, p).passed(bpf.VerdictLeftToTC)
				n.ingress(front, p).is(bpf.VerdictRefused, tcRedirect)
				n.podIngress(pod0, p).is(bpf.VerdictRefused, tcRedirect)
				equal(t, "records, "+name, 0, n.size(v))
			}
		}
	})
}
