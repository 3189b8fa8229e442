// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/leftovers"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestBesideIPVS is the matrix on a node where kube-proxy ran in IPVS mode: its device still holds the addresses of
// services, and the kernel's virtual servers lead to an endpoint that is gone.
//
// Contract: 8, 36.
func TestBesideIPVS(t *testing.T) {
	tc := modes[1]
	s := newSetup(t, topo.Routed, tc)
	p := newVirtualServers(t, s.Nodes[0])
	for _, target := range targets {
		for _, v6 := range bothFamilies {
			gone := netip.MustParseAddr("10.244.0.99")
			if v6 {
				gone = netip.MustParseAddr("fd00:10:244::99")
			}
			for _, f := range frontends {
				for _, udp := range []bool{false, true} {
					to := netip.AddrPortFrom(f.addr(s, target, v6), f.port(target, udp))
					p.serve(t, protoName(udp), to, netip.AddrPortFrom(gone, 1))
				}
			}
		}
	}
	matrix(t, s, topo.Routed, tc)
}

// TestTakeoverIPVS: connections that kube-proxy in IPVS mode has opened, masqueraded and not, go on when waggle
// starts, when kube-proxy's rules are cleaned up, and while an agent restarts. Each sends 16 bytes every 50 ms. It
// counts as broken if it gets no answer within 2 s, or another pod's, or if its pod sees another client. The
// connections end with IPVS' entries. Without the records that a takeover makes they break at once.
func TestTakeoverIPVS(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { takeoverIPVS(t, m) })
	}
}

func takeoverIPVS(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	p := newVirtualServers(t, s.Nodes[0])
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	ways := s.ways(s.addClients(t))
	for node, svc := range services {
		s.addService(t, svc)
		p.lead(t, svc, ways, s.addPod(t, node, svc.name+"-0", "app: "+svc.name), s.addPod(t, node, svc.name+"-1", "app: "+svc.name))
	}
	nft(t, p.node.Host, p.masquerade(services))
	all := openSteady(t, services, ways)
	all.begin()
	all.goOn(t, "by IPVS")
	agent := s.agents[0]
	check(t, agent.Start())
	check(t, agent.Await("the services", func(s *status.Status) bool { return s.Proxy.Services == len(services)*portsOfService }))
	all.goOn(t, "with an agent")
	awaitForeign(t, agent, 2*2*len(all.streams)) // a pair for each zone that its packets may come in by
	before, err := agent.Counters()
	check(t, err)

	nft(t, p.node.Host, "delete table inet proxy\n")
	out, err := agent.CLI("cleanup", "--kube-proxy")
	check(t, err)
	if !strings.Contains(out, "left device kube-ipvs0") {
		t.Errorf("a cleanup says nothing of the device that IPVS' connections need: %s", out)
	}
	all.goOn(t, "without the rules")
	check(t, agent.Stop())
	check(t, agent.Start())
	all.goOn(t, "after a restart")
	after, err := agent.Counters()
	check(t, err)
	for k, n := range after.Since(before) {
		if strings.HasSuffix(k, "/flow-opened") || strings.HasSuffix(k, "/stack") || strings.HasSuffix(k, "/express") {
			t.Errorf("%d packets of connections that are not ours counted as %s", n, k)
		}
	}
	all.loops.check(t)
	t.Run("expiry", func(t *testing.T) { all.expire(t, p, agent) })
	t.Run("without-records", func(t *testing.T) { all.breakWithoutRecords(t, agent) })
}

// expire: when IPVS drops connections, their records end, and the next packet opens a flow of waggle's.
func (s *steady) expire(t *testing.T, p *virtualServers, agent *cluster.Agent) {
	p.ipvsadm(t, "--set", "0", "0", "1") // seconds, for UDP; from the next packet on
	tcp := 0
	for _, f := range s.streams {
		if reply := f.send(); !reply.OK() {
			t.Fatalf("%s: %s", f.name, reply)
		}
		if strings.HasSuffix(f.name, "/tcp") {
			tcp++
		}
	}
	awaitForeign(t, agent, 2*2*tcp)
	before, err := agent.Counters()
	check(t, err)
	for _, f := range s.streams {
		if reply := f.stream.Exchange(16); !reply.OK() {
			t.Errorf("%s: %s", f.name, reply)
		}
	}
	after, err := agent.Counters()
	check(t, err)
	opened := 0
	for k, n := range after.Since(before) {
		if strings.HasSuffix(k, "/flow-opened") {
			opened += int(n)
		}
	}
	if opened != len(s.streams)-tcp {
		t.Errorf("%d flows opened, want one for each of %d UDP sockets", opened, len(s.streams)-tcp)
	}
}

// breakWithoutRecords: none of the masqueraded TCP connections goes on when the records are gone. Others may go on by
// chance, if their packets are led to the same pod. UDP has flows of waggle's by now.
func (s *steady) breakWithoutRecords(t *testing.T, agent *cluster.Agent) {
	agent.Kill()
	forget(t, agent)
	for _, f := range s.streams {
		masqueraded := strings.Contains(f.name, "/nodeport/") || strings.Contains(f.name, "/lb/")
		if !masqueraded || !strings.HasSuffix(f.name, "/tcp") {
			continue
		}
		if reply := f.send(); reply.OK() {
			t.Errorf("%s goes on: %s", f.name, reply)
		}
	}
}

// forget empties the table of flows.
func forget(t *testing.T, agent *cluster.Agent) {
	t.Helper()
	for name, set := range map[string]any{"flows4": bpf.FlowSet4{}, "flows6": bpf.FlowSet6{}} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(agent.PinDir, "maps", name), nil)
		check(t, err)
		defer m.Close()
		for i := range m.MaxEntries() {
			check(t, m.Put(i, set))
		}
	}
}

// awaitForeign waits until there are so many records of adopted connections.
func awaitForeign(t *testing.T, agent *cluster.Agent, want int) {
	t.Helper()
	var list string
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var err error
		list, err = agent.CLI("flow", "list", "--limit", "0")
		check(t, err)
		if strings.Count(list, " foreign ") == want {
			return
		}
	}
	t.Fatalf("%d records of adopted connections, want %d:\n%s", strings.Count(list, " foreign "), want, list)
}

// steady are sockets that send at intervals.
type steady struct {
	streams []*lasting
	loops   *background
	sent    []atomic.Int64 // by stream: the number of exchanges
	broken  atomic.Bool
}

// The interval, and how long a socket may be silent before it counts as broken. On an emulated machine both are
// longer, by the factor WAGGLE_PATIENCE.
const (
	steadyPause   = 50 * time.Millisecond
	steadySilence = 2 * time.Second
)

// openSteady opens a TCP and a UDP socket by each way.
func openSteady(t *testing.T, services []service, ways []way) *steady {
	t.Helper()
	s := &steady{}
	open := func(name string, w way, open func(topo.Request) (*topo.Stream, topo.Reply), to netip.AddrPort) {
		s.streams = append(s.streams, openOne(t, name, w.client, func(r topo.Request) (*topo.Stream, topo.Reply) {
			r.Timeout = steadySilence
			return open(r)
		}, to, len(s.streams)))
	}
	for _, svc := range services {
		for _, w := range ways {
			for _, v6 := range bothFamilies {
				name := fmt.Sprintf("%s/%s/%s/", svc.name, w.name, familyName(v6))
				open(name+"tcp", w, w.client.OpenTCP, w.to(svc, echo, v6))
				open(name+"udp", w, w.client.OpenUDP, w.to(svc, dns, v6))
			}
		}
	}
	return s
}

func (s *steady) begin() {
	s.loops, s.sent = startBackground(topo.Patient(steadyPause)), make([]atomic.Int64, len(s.streams))
	for i, f := range s.streams {
		s.loops.add(f.name, func() topo.Reply {
			reply := f.send()
			if s.sent[i].Add(1); !reply.OK() {
				s.broken.Store(true)
			}
			return reply
		})
	}
}

// goOn waits until each has sent some more, and ends the test if one is broken.
func (s *steady) goOn(t *testing.T, when string) {
	t.Helper()
	const more = 20
	ends := make([]int64, len(s.sent))
	for i := range s.sent {
		ends[i] = s.sent[i].Load() + more
	}
	for i, end := range ends {
		for s.sent[i].Load() < end && !s.broken.Load() {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if s.broken.Load() {
		s.loops.check(t)
		t.Fatal(when)
	}
	t.Log(when)
}

// send exchanges 16 bytes, and fails if they go another way than the first.
func (f *lasting) send() topo.Reply {
	r := f.stream.Exchange(16)
	if r.OK() && (r.Pod != f.first.Pod || r.Remote != f.first.Remote) {
		r.Err = fmt.Sprintf("first %s saw %s, now %s sees %s", f.first.Pod, f.first.Remote, r.Pod, r.Remote)
	}
	return r
}

// virtualServers are the virtual servers of a node, as kube-proxy makes them in IPVS mode.
type virtualServers struct {
	node *topo.Node
	have map[string]bool
}

// newVirtualServers skips the test if the kernel has no IPVS. The kernels of test/vm have it.
func newVirtualServers(t *testing.T, node *topo.Node) *virtualServers {
	t.Helper()
	needs(t, haveIPVS(node.Host))
	device := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: leftovers.IPVSDevice}}
	needs(t, node.Netlink().LinkAdd(device))
	for name, value := range map[string]string{
		"conntrack": "1", "conn_reuse_mode": "0", "expire_nodest_conn": "1", "expire_quiescent_template": "1",
	} {
		check(t, node.Sysctl("net.ipv4.vs."+name, value))
	}
	return &virtualServers{node, map[string]bool{}}
}

// haveIPVS queries IPVS, which loads the kernel's module.
func haveIPVS(h *topo.Host) error {
	return h.Do(func() error {
		if _, err := netlink.GenlFamilyGet("IPVS"); errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("IPVS: %w", unix.EOPNOTSUPP)
		} else {
			return err
		}
	})
}

// serve leads an address to real servers. The node holds the address, as the destination of the client's packets.
func (p *virtualServers) serve(t *testing.T, proto string, addr netip.AddrPort, to ...netip.AddrPort) {
	t.Helper()
	if a := addr.Addr(); a != p.node.IP4 && a != p.node.IP6 && !p.have[a.String()] {
		check(t, p.node.AddAddr(leftovers.IPVSDevice, topo.Single(a)))
		p.have[a.String()] = true
	}
	flag := fmt.Sprintf("--%s-service", proto)
	if p.have[flag+addr.String()] {
		return
	}
	p.have[flag+addr.String()] = true
	p.ipvsadm(t, "--add-service", flag, addr.String(), "--scheduler", "rr")
	for _, r := range to {
		p.ipvsadm(t, "--add-server", flag, addr.String(), "--real-server", r.String(), "--masquerading")
	}
}

// lead makes the virtual servers of a service's ports.
func (p *virtualServers) lead(t *testing.T, svc service, ways []way, pods ...*topo.Pod) {
	t.Helper()
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			var tcp, udp []netip.AddrPort
			for _, pod := range pods {
				tcp = append(tcp, netip.AddrPortFrom(addrOf(pod.Host, v6), podPorts.Echo[0]))
				udp = append(udp, netip.AddrPortFrom(addrOf(pod.Host, v6), podPorts.UDP[0]))
			}
			p.serve(t, "tcp", w.to(svc, echo, v6), tcp...)
			p.serve(t, "udp", w.to(svc, dns, v6), udp...)
		}
	}
}

// masquerade are kube-proxy's rules for packets to node ports and load balancer addresses. kube-proxy has sets in
// ipset in place of these expressions.
func (p *virtualServers) masquerade(services []service) string {
	var rules strings.Builder
	for _, svc := range services {
		for _, v6 := range bothFamilies {
			family := "ip"
			if v6 {
				family = "ip6"
			}
			for proto, port := range map[string]port{"tcp": echo, "udp": dns} {
				for _, to := range []netip.AddrPort{svc.nodePort(addrOf(p.node.Host, v6), port), svc.lb(port, v6)} {
					fmt.Fprintf(&rules, "    %s daddr %s %s dport %d meta mark set 0x4000\n", family, to.Addr(), proto, to.Port())
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

func (p *virtualServers) ipvsadm(t *testing.T, args ...string) {
	t.Helper()
	if out, err := p.node.Command("ipvsadm", args...).CombinedOutput(); err != nil {
		t.Fatalf("ipvsadm %v: %v: %s", args, err, out)
	}
}
