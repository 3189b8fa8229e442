// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

func previousRelease(t *testing.T) string {
	t.Helper()
	path := cluster.PreviousRelease()
	if path == "" {
		t.Skip("there is no release before this one: make test-upgrade")
	}
	return path
}

// TestUpgrade: an agent of the previous release has opened flows on every path, and one of this
// release replaces it, under traffic. No connection breaks, and each stays with its endpoint. The
// release before refuses to come back, and changes nothing. The same holds if agents of this
// release are killed while they convert.
//
// Contract: 6, 23.
func TestUpgrade(t *testing.T) {
	for _, variant := range []struct {
		name  string
		pods  topo.PodNetwork
		mode  mode
		flags []string
		kill  bool
	}{
		{"routed/xdp", topo.Routed, modes[0], nil, false},
		{"routed/tc", topo.Routed, modes[1], nil, false},
		{"vxlan/xdp", topo.VXLAN, modes[0], nil, false},
		{"vxlan/tc", topo.VXLAN, modes[1], nil, false},
		{"masquerade-all", topo.Routed, modes[1], []string{"--masquerade-all"}, false},
		{"same-ports", topo.Routed, modes[1], []string{"--snat-ports=49152-65535"}, false},
		{"killed/xdp", topo.Routed, modes[0], nil, true},
		{"killed/tc", topo.VXLAN, modes[1], nil, true},
	} {
		t.Run(variant.name, func(t *testing.T) { upgrade(t, variant.pods, variant.mode, variant.flags, variant.kill) })
	}
}

func upgrade(t *testing.T, network topo.PodNetwork, m mode, flags []string, kill bool) {
	previous := previousRelease(t)
	s := newSetup(t, network, m)
	services, ways := s.addUpgraded(t)
	startPrevious(t, s, previous, flags)
	s.awaitServices(t, len(services)*portsOfService)
	flows := openLasting(t, services, ways)
	checkAll(t, flows, "before the upgrade")

	agent := s.agents[0]
	traffic, young := startBackground(20*time.Millisecond), startBackground(20*time.Millisecond)
	for svc, ways := range ways {
		traffic.addStreams(t, svc, ways)
		young.addConnections(svc, ways)
	}
	check(t, agent.Stop())
	agent.Use(binary)
	if kill {
		killConverting(t, agent, flags, flows)
	}
	check(t, agent.Start(flags...))
	young.report(t)
	for svc, ways := range ways {
		traffic.addConnections(svc, ways)
	}
	checkAll(t, flows, "after the upgrade")
	checkConverted(t, agent)
	for _, link := range linksOf(t, agent) {
		if !link.Attached {
			t.Errorf("%s on %s%s is not attached", link.Hook, link.Device, link.Cgroup)
		}
	}
	traffic.check(t)

	checkNoWayBack(t, agent, previous, flags)
	checkAll(t, flows, "after the refusal")
	check(t, agent.Start(flags...))
	checkAll(t, flows, "after a restart")
	for _, f := range flows {
		f.reopen(t)
	}
	checkCounted(t, agent, services)
}

// checkCounted: the previous release has no counters by service. What has come since is counted, for each service.
func checkCounted(t *testing.T, agent *cluster.Agent, services []service) {
	t.Helper()
	type counters struct{ OpenedFlows, PacketsToBackend, PacketsToClient uint64 }
	await.Until(t, func() (string, bool) {
		out, err := agent.CLI("top", "services", "--once", "-o", "json", "-n", "0", "--interval", "1s")
		check(t, err)
		var rows []struct {
			Service  string
			Counters counters
		}
		check(t, json.Unmarshal([]byte(out), &rows))
		sums := map[string]counters{}
		for _, r := range rows {
			sum := sums[r.Service]
			sums[r.Service] = counters{
				sum.OpenedFlows + r.Counters.OpenedFlows, sum.PacketsToBackend + r.Counters.PacketsToBackend,
				sum.PacketsToClient + r.Counters.PacketsToClient,
			}
		}
		for _, svc := range services {
			if c := sums[svc.name]; c.OpenedFlows == 0 || c.PacketsToBackend <= c.OpenedFlows || c.PacketsToClient == 0 {
				return fmt.Sprintf("%s: counted are %+v, of %+v", svc.name, c, sums), false
			}
		}
		return "", true
	})
}

// killConverting starts agents and kills them: first while they load their programs, and then each
// at twice the time after that, until one has converted the flows.
func killConverting(t *testing.T, agent *cluster.Agent, flags []string, flows []*lasting) {
	t.Helper()
	killed := 0
	launchAndKill := func(loaded bool, after time.Duration) {
		runs := running(t, agent)
		check(t, agent.Launch(flags...))
		for deadline := time.Now().Add(topo.Patient(time.Minute)); loaded && running(t, agent) == runs; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the agent does not get as far as running")
			}
		}
		time.Sleep(after)
		agent.Kill()
		killed++
		checkAll(t, flows, fmt.Sprintf("with %d agents killed", killed))
	}
	for after := 100 * time.Millisecond; after < time.Second; after *= 2 {
		launchAndKill(false, after)
	}
	for after := 5 * time.Millisecond; len(oldPins(t, agent)) > 0; after *= 2 {
		launchAndKill(true, after)
	}
	t.Logf("%d agents were killed", killed)
}

// running returns how often an agent has logged that it has loaded all that it needs.
func running(t *testing.T, agent *cluster.Agent) int {
	t.Helper()
	log, err := os.ReadFile(agent.LogFile)
	check(t, err)
	return strings.Count(string(log), `"agent running"`)
}

// report ends the loops of new connections. docs/design.md says that those may break which are only
// some packets old when the programs are exchanged.
func (b *background) report(t *testing.T) {
	t.Helper()
	ok, failed := 0, 0
	for name, load := range b.loads {
		report := load.Stop()
		ok, failed = ok+report.OK, failed+report.Failed
		if report.OK == 0 {
			t.Errorf("%s: %s", name, report)
		}
	}
	t.Logf("%d connections were opened meanwhile, of which %d broke", ok+failed, failed)
}

// addUpgraded adds services with two pods each, on this node and on the other, and one whose pod is
// also its client, with the ways to them.
func (s *setup) addUpgraded(t *testing.T) ([]service, map[service][]way) {
	t.Helper()
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}, {name: "self", number: 3}}
	for _, svc := range services {
		s.addService(t, svc)
	}
	for node, svc := range services[:2] {
		for i := range 2 {
			s.addPod(t, node, fmt.Sprintf("%s-%d", svc.name, i), "app: "+svc.name)
		}
	}
	self, err := s.Nodes[0].AddPod("self", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	_, err = self.Serve(podPorts)
	check(t, err)
	check(t, s.manifests.WritePod(self, "app: self"))
	ways := s.ways(s.addClients(t))
	return services, map[service][]way{
		services[0]: ways,
		services[1]: ways,
		services[2]: {{"turn", client(t, self.Host), service.clusterIP}},
	}
}

// startPrevious starts agents of the previous release on all nodes.
func startPrevious(t *testing.T, s *setup, previous string, flags []string) {
	t.Helper()
	for _, a := range s.agents {
		a.Use(previous)
		check(t, a.Start(flags...))
	}
}

// lasting is a socket that must outlive changes of the agent.
type lasting struct {
	name   string
	client *topo.Client
	to     topo.Request
	stream *topo.Stream
	first  topo.Reply
}

// openLasting opens TCP and UDP sockets by each way, some to each of a service's pods.
func openLasting(t *testing.T, services []service, ways map[service][]way) []*lasting {
	t.Helper()
	const each = 3
	var all []*lasting
	for _, svc := range services {
		for _, w := range ways[svc] {
			for _, v6 := range bothFamilies {
				for i := range each {
					name := fmt.Sprintf("%s/%s/%s/%d", svc.name, w.name, familyName(v6), i)
					all = append(all, openOne(t, name+"/tcp", w.client, w.client.OpenTCP, w.to(svc, echo, v6), len(all)))
					all = append(all, openOne(t, name+"/udp", w.client, w.client.OpenUDP, w.to(svc, dns, v6), len(all)))
					all = append(all, openOne(t, name+"/udp-unconnected", w.client, w.client.OpenUDPUnconnected, w.to(svc, dns, v6), len(all)))
				}
			}
		}
	}
	return all
}

// openOne opens a socket from a port of its own.
func openOne(t *testing.T, name string, c *topo.Client, open func(topo.Request) (*topo.Stream, topo.Reply), to netip.AddrPort, number int) *lasting {
	t.Helper()
	f := &lasting{name: name, client: c, to: topo.Request{To: to, SourcePort: uint16(35000 + number), Reset: true}}
	var reply topo.Reply
	if f.stream, reply = open(f.to); !reply.OK() {
		t.Fatalf("%s: %s", name, reply)
	}
	for range 2 { // the second exchange confirms a flow of UDP
		if f.first = f.stream.Exchange(1000); !f.first.OK() {
			t.Fatalf("%s: %s", name, f.first)
		}
	}
	return f
}

func checkAll(t *testing.T, flows []*lasting, when string) {
	t.Helper()
	for _, f := range flows {
		reply := f.stream.Exchange(1400)
		if !reply.OK() || reply.Pod != f.first.Pod || reply.Remote != f.first.Remote {
			t.Errorf("%s, %s:\nfirst %s\nnow   %s", f.name, when, f.first, reply)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// reopen: a connection from the same port as one that has ended is a new one.
func (f *lasting) reopen(t *testing.T) {
	t.Helper()
	f.stream.Close()
	if !strings.HasSuffix(f.name, "/tcp") {
		return
	}
	r := f.to
	r.Size = 1000
	if reply := f.client.Echo(r); !reply.OK() {
		t.Errorf("%s, from the same port: %s", f.name, reply)
	}
}

// checkConverted expects that nothing is left of the previous release.
func checkConverted(t *testing.T, a *cluster.Agent) {
	t.Helper()
	for _, pin := range oldPins(t, a) {
		t.Errorf("after the upgrade there is still %s", pin)
	}
}

// oldPins are maps that only the previous release has, and those that are being replaced.
func oldPins(t *testing.T, a *cluster.Agent) (old []string) {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(a.PinDir, "maps", "*"))
	check(t, err)
	for _, pin := range pins {
		if name := filepath.Base(pin); strings.HasPrefix(name, "flows_new") || strings.Contains(name, "-") {
			old = append(old, pin)
		}
	}
	return old
}

// checkNoWayBack expects that the previous release refuses what this one has left, and does not
// change it.
func checkNoWayBack(t *testing.T, a *cluster.Agent, previous string, flags []string) {
	t.Helper()
	check(t, a.Stop())
	before := pinned(t, a)
	a.Use(previous)
	refused, err := a.RunTwin(flags...)
	check(t, err)
	a.Use(binary)
	if !strings.Contains(refused.Stderr, "another version of waggle") || !strings.Contains(refused.Stderr, "waggle cleanup") || refused.Status != 1 {
		t.Errorf("the previous release does not refuse: %s", refused)
	}
	if after := pinned(t, a); !reflect.DeepEqual(before, after) {
		t.Errorf("the previous release has refused, and changed:\n%+v\nto:\n%+v", before, after)
	}
}

// left is what an agent leaves in the kernel.
type left struct {
	Pins  []string
	Links []loader.LinkStatus
}

func pinned(t *testing.T, a *cluster.Agent) left {
	t.Helper()
	var l left
	check(t, filepath.WalkDir(a.PinDir, func(path string, _ os.DirEntry, err error) error {
		l.Pins = append(l.Pins, path)
		return err
	}))
	slices.Sort(l.Pins)
	l.Links = linksOf(t, a)
	return l
}

// TestUpgradeStale: changes while no agent ran hold for converted flows, too: UDP clients of an
// endpoint that is gone find another one.
func TestUpgradeStale(t *testing.T) {
	previous := previousRelease(t)
	s := newSetup(t, topo.Routed, modes[0])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	gone, stays := s.addPod(t, 1, "web-gone", "app: web"), s.addPod(t, 1, "web-stays", "app: web")
	ways := map[service][]way{web: s.byPacket(s.addClients(t))}
	startPrevious(t, s, previous, nil)
	s.awaitServices(t, portsOfService)
	flows := openLasting(t, []service{web}, ways)
	if !slices.ContainsFunc(flows, func(f *lasting) bool { return f.first.Pod == gone.Name && strings.Contains(f.name, "udp") }) {
		t.Fatal("no UDP flow leads to the pod that will be gone")
	}
	agent := s.agents[0]
	check(t, agent.Stop())
	check(t, s.manifests.Remove("pod-"+gone.Name+".yaml"))
	check(t, gone.Node.RemovePod(gone))
	agent.Use(binary)
	check(t, agent.Start())
	for _, f := range flows {
		if strings.HasSuffix(f.name, "/tcp") && f.first.Pod == gone.Name {
			continue // its connection has ended
		}
		if reply := f.exchangeSoon(); reply.Pod != stays.Name {
			t.Errorf("%s, first answered by %s: %s", f.name, f.first.Pod, reply)
		}
	}
}

// exchangeSoon repeats an exchange until it succeeds: the agent soon looks for stale flows.
func (f *lasting) exchangeSoon() (reply topo.Reply) {
	for range 20 {
		if reply = f.stream.Exchange(1000); reply.OK() {
			break
		}
	}
	return reply
}

// TestUpgradeForeign: connections that were left to the kernel's NAT, since the previous release took
// over from another proxy, stay so.
func TestUpgradeForeign(t *testing.T) {
	previous := previousRelease(t)
	s := newSetup(t, topo.Routed, modes[0])
	s.agents = s.agents[:1]
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	pods := map[string]*topo.Pod{}
	for node, svc := range services {
		s.addService(t, svc)
		pods[svc.name] = s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	node := s.Nodes[0]
	ways := s.ways(s.addClients(t))
	nft(t, node.Host, nftProxy(node, services, pods))
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
	startPrevious(t, s, previous, nil)
	s.awaitServices(t, len(services)*portsOfService)
	for _, p := range all {
		p.check(t, "with both")
	}
	nft(t, node.Host, "delete table inet proxy\n")
	for _, p := range all {
		p.check(t, "with the previous release")
	}
	agent := s.agents[0]
	check(t, agent.Stop())
	agent.Use(binary)
	check(t, agent.Start())
	// until the agent has counted what is left to the kernel
	check(t, agent.Await("a walk over the flows", func(s *status.Status) bool { return s.Flows.IPv4.Confirmed > 0 }))
	for _, p := range all {
		p.check(t, "after the upgrade")
	}
	list, err := agent.CLI("flow", "list", "--limit", "0")
	check(t, err)
	if got, want := strings.Count(list, " foreign "), 2*2*len(all); got != want {
		t.Errorf("%d records of foreign flows, want %d:\n%s", got, want, list)
	}
}
