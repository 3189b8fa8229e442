// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestTakeover: connections that the kernel's NAT has opened, by rules like kube-proxy's, go on
// when waggle starts and the rules go. waggle serves new ones, even from the same ports.
func TestTakeover(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes[:2] {
			t.Run(podNetworkName(pods)+"/"+m.name, func(t *testing.T) { takeover(t, pods, m) })
		}
	}
}

// proxied is a socket that the kernel translates.
type proxied struct {
	name   string
	client *topo.Client
	open   func(topo.Request) (*topo.Stream, topo.Reply)
	to     topo.Request
	stream *topo.Stream
	first  topo.Reply
}

func takeover(t *testing.T, network topo.PodNetwork, m mode) {
	s := newSetup(t, network, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	pods := map[string]*topo.Pod{}
	for node, svc := range services {
		s.addService(t, svc)
		pods[svc.name] = s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	ways := s.ways(s.addClients(t))
	node := s.Nodes[0]
	proxy := nftProxy(node, services, pods)
	nft(t, node.Host, proxy)
	var all []*proxied
	for _, svc := range services {
		for _, w := range ways {
			if w.name == "lb" {
				continue // as a node port
			}
			for _, v6 := range bothFamilies {
				all = append(all, openProxied(t, svc, w, v6, pods[svc.name])...)
			}
		}
	}
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	for _, p := range all {
		p.check(t, "with both")
	}
	nft(t, node.Host, "delete table inet proxy\n")
	before, err := s.agents[0].Counters()
	check(t, err)
	for range 3 {
		for _, p := range all {
			p.check(t, "without the rules")
		}
	}
	after, err := s.agents[0].Counters()
	check(t, err)
	for k, n := range after.Since(before) {
		if strings.HasSuffix(k, "/flow-opened") || strings.HasSuffix(k, "/stack") || strings.HasSuffix(k, "/express") {
			t.Errorf("%d packets of connections that are not ours counted as %s", n, k)
		}
	}
	list, err := s.agents[0].CLI("flow", "list", "--limit", "0")
	check(t, err)
	// A pair of records for each zone that its packets may come in by.
	if got, want := strings.Count(list, " foreign "), 2*2*len(all); got != want {
		t.Errorf("%d records of foreign flows, want %d:\n%s", got, want, list)
	}
	connectAll(t, services, ways)
	before, err = s.agents[0].Counters()
	check(t, err)
	packets := 0
	for _, p := range all {
		if p.reopen(t) && !strings.Contains(p.name, "socket") {
			packets++
		}
	}
	after, err = s.agents[0].Counters()
	check(t, err)
	opened := 0
	for k, n := range after.Since(before) {
		if strings.HasSuffix(k, "/flow-opened") {
			opened += int(n)
		}
	}
	if opened != packets {
		t.Errorf("%d connections from ports that were others', and %d flows opened", packets, opened)
	}
	s.agents[0].Kill()
	_, err = s.agents[0].CLI("cleanup")
	check(t, err)
	if left, err := node.Command("nft", "list", "tables").CombinedOutput(); err != nil || len(left) > 0 {
		t.Errorf("after a cleanup there are the tables %s (%v)", left, err)
	}
}

// TestTakeoverFollows: when the kernel drops a connection that was left to it, its next packets
// open a flow of waggle's, however often they come meanwhile. A client that keeps its port must not
// be refused for as long as it goes on trying.
func TestTakeoverFollows(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	svc := service{name: "local", number: 1}
	s.addService(t, svc)
	pods := map[string]*topo.Pod{svc.name: s.addPod(t, 0, svc.name, "app: "+svc.name)}
	ways := s.ways(s.addClients(t))
	node := s.Nodes[0]
	nft(t, node.Host, nftProxy(node, []service{svc}, pods))
	var all []*proxied
	for _, w := range ways {
		if w.name == "lb" || strings.Contains(w.name, "socket") {
			continue // as a node port; not by packet
		}
		for _, v6 := range bothFamilies {
			all = append(all, openProxied(t, svc, w, v6, pods[svc.name])...)
		}
	}
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	nft(t, node.Host, "delete table inet proxy\n")
	for _, p := range all {
		p.check(t, "with the kernel's entry")
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		if out, err := node.Command("conntrack", "-D", "-f", family, "--dst-nat").CombinedOutput(); err != nil {
			t.Fatalf("conntrack: %v: %s", err, out)
		}
	}
	for _, p := range all {
		p.comesBack(t)
	}
	list, err := s.agents[0].CLI("flow", "list", "--limit", "0")
	check(t, err)
	if strings.Contains(list, " foreign ") {
		t.Errorf("there are records of foreign flows still:\n%s", list)
	}
}

// comesBack tries until the service answers; with TCP, by new connections.
func (p *proxied) comesBack(t *testing.T) {
	t.Helper()
	var reply topo.Reply
	if strings.HasSuffix(p.name, "tcp") {
		p.stream.Close()
	}
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); time.Now().Before(deadline); {
		if r := p.to; strings.HasSuffix(p.name, "tcp") {
			r.Size, r.Timeout = 1000, time.Second
			reply = p.client.Echo(r)
		} else {
			reply = p.stream.Exchange(1000)
		}
		if reply.OK() {
			return
		}
	}
	t.Errorf("%s, since the kernel has forgotten it: %s", p.name, reply)
}

// openProxied opens a TCP and a UDP socket from ports of their own.
func openProxied(t *testing.T, svc service, w way, v6 bool, pod *topo.Pod) []*proxied {
	t.Helper()
	both := []*proxied{
		{name: "tcp", client: w.client, open: w.client.OpenTCP, to: topo.Request{To: w.to(svc, echo, v6), Reset: true}},
		{name: "udp", client: w.client, open: w.client.OpenUDP, to: topo.Request{To: w.to(svc, dns, v6), Timeout: time.Second}},
	}
	for i, p := range both {
		p.to.SourcePort = uint16(41000 + 100*svc.number + i)
		if v6 {
			p.to.SourcePort += 10
		}
		p.name = fmt.Sprintf("%s/%s/%s/%s", svc.name, w.name, familyName(v6), p.name)
		var reply topo.Reply
		if p.stream, reply = p.open(p.to); !reply.OK() {
			t.Fatalf("%s: %s", p.name, reply)
		}
		if p.first = p.stream.Exchange(1000); !p.first.OK() || p.first.Pod != pod.Name {
			t.Fatalf("%s: %s", p.name, p.first)
		}
	}
	return both
}

// check sends data in both directions. The server must see the same client as before.
func (p *proxied) check(t *testing.T, when string) {
	t.Helper()
	reply := p.stream.Exchange(1400)
	if !reply.OK() || reply.Pod != p.first.Pod || reply.Remote != p.first.Remote {
		t.Fatalf("%s, %s:\nbefore %s\nnow    %s", p.name, when, p.first, reply)
	}
}

// reopen opens a connection from the same port as one that has ended.
func (p *proxied) reopen(t *testing.T) bool {
	t.Helper()
	if !strings.HasSuffix(p.name, "tcp") {
		return false
	}
	p.stream.Close()
	r := p.to
	r.Size = 1000
	if reply := p.client.Echo(r); !reply.OK() || reply.Pod != p.first.Pod {
		t.Errorf("%s, from the same port: %s", p.name, reply)
	}
	return true
}

// nftProxy makes rules like kube-proxy's for services with one endpoint: DNAT of packets to a
// cluster IP or a node port, and masquerade of the latter, from any port.
func nftProxy(node *topo.Node, services []service, pods map[string]*topo.Pod) string {
	var rules strings.Builder
	for _, svc := range services {
		pod := pods[svc.name]
		for _, v6 := range bothFamilies {
			family := "ip"
			if v6 {
				family = "ip6"
			}
			for proto, ports := range map[string][2]port{"tcp": {echo}, "udp": {dns}} {
				target := netip.AddrPortFrom(addrOf(pod.Host, v6), map[string]uint16{"tcp": 7070, "udp": 5353}[proto])
				for to, mark := range map[netip.AddrPort]string{
					svc.clusterIP(ports[0], v6):                   "",
					svc.nodePort(addrOf(node.Host, v6), ports[0]): "meta mark set 0x4000 ",
				} {
					fmt.Fprintf(&rules, "    %s daddr %s %s dport %d %sdnat %s to %s\n", family, to.Addr(), proto, to.Port(), mark, family, target)
				}
			}
		}
	}
	return `table inet proxy {
  chain services {
` + rules.String() + `  }
  chain prerouting { type nat hook prerouting priority -100; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting { type nat hook postrouting priority 100; meta mark 0x4000 masquerade fully-random; }
}
`
}

func nft(t *testing.T, h *topo.Host, rules string) {
	t.Helper()
	cmd := h.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, rules)
	}
}
