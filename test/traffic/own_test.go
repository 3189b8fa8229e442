// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// ownConnection is a connection that the node, or a pod that it masquerades, opens to a server
// outside, from a port that is a NodePort.
type ownConnection struct {
	name   string
	open   func(topo.Request) (*topo.Stream, topo.Reply)
	to     topo.Request
	stream *topo.Stream
}

func (o *ownConnection) start(t *testing.T) {
	t.Helper()
	var r topo.Reply
	if o.stream, r = o.open(o.to); !r.OK() {
		t.Fatalf("%s: %s", o.name, r)
	}
}

func (o *ownConnection) exchange(t *testing.T) {
	t.Helper()
	for _, size := range []int{1, 1200} {
		if r := o.stream.Exchange(size); !r.OK() {
			t.Errorf("%s, %d bytes: %s", o.name, size, r)
		}
	}
}

// TestOwnConnections, of contract 42 and 43: they get their answers, even those that are older than
// the agent, and the NodePorts still serve others.
func TestOwnConnections(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { ownConnections(t, m) })
	}
}

func ownConnections(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	_, err := s.Laptop.Serve(podPorts)
	check(t, err)
	c := s.addClients(t)
	node := client(t, s.Nodes[0].Host)
	var older, newer []*ownConnection
	var masquerade [2]string // rules for the older ones, and for the newer
	for i, v6 := range bothFamilies {
		mine, masqueraded := services[i], services[1-i] // a port is bound for both families
		laptop, self := addrOf(s.Laptop, v6), addrOf(s.Nodes[0].Host, v6)
		tcp, udp := netip.AddrPortFrom(laptop, podPorts.Echo[0]), netip.AddrPortFrom(laptop, podPorts.UDP[0])
		older = append(older, &ownConnection{name: "older, of the node, to " + tcp.String(), open: node.OpenTCP,
			to: topo.Request{To: tcp, SourcePort: mine.nodePort(self, http).Port()}},
			&ownConnection{name: "older, of a pod, to " + tcp.String(), open: c.inside.OpenTCP, to: topo.Request{To: tcp}})
		masquerade[0] += masqueradeTo(laptop, masqueraded.nodePort(self, http).Port(), masqueraded.nodePort(self, http).Port())
		masquerade[1] += masqueradeTo(laptop, masqueraded.nodePort(self, echo).Port(), masqueraded.nodePort(self, dns).Port())
		newer = append(newer,
			&ownConnection{name: "of the node, to tcp " + tcp.String(), open: node.OpenTCP,
				to: topo.Request{To: tcp, SourcePort: mine.nodePort(self, echo).Port()}},
			&ownConnection{name: "of the node, to udp " + udp.String(), open: node.OpenUDP,
				to: topo.Request{To: udp, SourcePort: mine.nodePort(self, dns).Port()}},
			&ownConnection{name: "of a pod, to tcp " + tcp.String(), open: c.inside.OpenTCP, to: topo.Request{To: tcp}},
			&ownConnection{name: "of a pod, to udp " + udp.String(), open: c.inside.OpenUDP, to: topo.Request{To: udp}})
	}
	nft(t, s.Nodes[0].Host, masquerade[0])
	for _, o := range older {
		o.start(t)
	}
	nft(t, s.Nodes[0].Host, "delete table ip owner\ndelete table ip6 owner\n"+masquerade[1])
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	for _, o := range newer {
		o.start(t)
	}
	for range 2 {
		for _, o := range append(older, newer...) {
			o.exchange(t)
		}
		connectAll(t, services, s.ways(c))
	}
}

// masqueradeTo makes pods' connections to a host leave from given ports, which a random masquerade
// may choose.
func masqueradeTo(host netip.Addr, tcp, udp uint16) string {
	family, pods := "ip", "10.244.0.0/16"
	if host.Is6() {
		family, pods = "ip6", "fd00:10:244::/48"
	}
	return fmt.Sprintf(`table %[1]s owner {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		%[1]s saddr %[5]s %[1]s daddr %[2]s meta l4proto tcp masquerade to :%[3]d
		%[1]s saddr %[5]s %[1]s daddr %[2]s meta l4proto udp masquerade to :%[4]d
	}
}
`, family, host, tcp, udp, pods)
}
