// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var (
	failovers = flag.Int("failover", 0, "measure each case of failover so many times; 0: don't")
	onlyCase  = flag.String("failover-case", "", "only the case whose name contains this")
)

// sender sends a datagram every 10 ms, and notes when replies come.
type sender struct {
	conn net.Conn
	mu   sync.Mutex
	at   []time.Time
}

func (s *setup) sender(t *testing.T, addr netip.Addr) *sender {
	t.Helper()
	out := &sender{}
	check(t, s.Laptop.Do(func() (err error) {
		out.conn, err = net.Dial("udp", netip.AddrPortFrom(addr, 53).String())
		return err
	}))
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(proberEvery)
		defer ticks.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticks.C:
				_, _ = out.conn.Write([]byte("x")) // an error is of an earlier one
			}
		}
	}()
	go func() {
		buffer := make([]byte, 2048)
		for {
			_, err := out.conn.Read(buffer)
			if err != nil && isClosed(quit) {
				return
			}
			if err == nil {
				out.mu.Lock()
				out.at = append(out.at, time.Now())
				out.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { close(quit); <-ended; check(t, out.conn.Close()) })
	return out
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// silence is the longest time without a reply since a time.
func (s *sender) silence(began time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return longest(s.at, began)
}

func longest(times []time.Time, began time.Time) (gap time.Duration) {
	last := began
	for _, at := range append(slices.Clone(times), time.Now()) {
		if at.Before(began) {
			last = at
			continue
		}
		gap = max(gap, at.Sub(last))
		last = at
	}
	return gap
}

// unanswered is the longest time in which the prober had no answer, since a time.
func (r *recorder) unanswered(addr netip.Addr, began time.Time) time.Duration {
	var times []time.Time
	for _, a := range r.since(addr, began.Add(-time.Second)) {
		if a.asked != 0 {
			times = append(times, a.at)
		}
	}
	return longest(times, began)
}

// failoverCases are what happens to the node that answers, and how it is undone.
type failoverCase struct {
	name       string
	stays      bool // the address must not move
	do, undone func(t *testing.T, s *setup, a *cluster.Agent)
	settle     time.Duration // after what is done, until the silence is known
}

var cases = []failoverCase{
	{name: "agent killed", settle: 500 * time.Millisecond,
		do:     func(t *testing.T, s *setup, a *cluster.Agent) { a.Kill() },
		undone: func(t *testing.T, s *setup, a *cluster.Agent) { start(t, a) }},
	{name: "link cut", settle: 500 * time.Millisecond,
		do:     func(t *testing.T, s *setup, a *cluster.Agent) { s.setLink(t, a.Node.Name, false) },
		undone: func(t *testing.T, s *setup, a *cluster.Agent) { s.setLink(t, a.Node.Name, true) }},
	{name: "node cordoned", settle: 300 * time.Millisecond,
		do: func(t *testing.T, s *setup, a *cluster.Agent) {
			check(t, s.manifests.Write("node-"+a.Node.Name+".yaml", nodeYAML(a.Node, true)))
		},
		undone: func(t *testing.T, s *setup, a *cluster.Agent) {
			check(t, s.manifests.Write("node-"+a.Node.Name+".yaml", nodeYAML(a.Node, false)))
		}},
	{name: "last local endpoint gone", settle: 300 * time.Millisecond,
		do: func(t *testing.T, s *setup, a *cluster.Agent) {
			check(t, s.manifests.Remove("pod-local-"+a.Node.Name+".yaml"))
		},
		undone: func(t *testing.T, s *setup, a *cluster.Agent) {
			check(t, s.manifests.WritePod(s.local[a.Node.Name], "app: local"))
		}},
	{name: "agent restarted", stays: true, settle: 500 * time.Millisecond,
		do: func(t *testing.T, s *setup, a *cluster.Agent) {
			check(t, a.Stop())
			start(t, a)
			check(t, a.Await("the other agents", func(st *status.Status) bool {
				return len(st.Members) == 2 && !slices.ContainsFunc(st.Members, func(m status.Member) bool { return m.State != "alive" })
			}))
		},
		undone: func(*testing.T, *setup, *cluster.Agent) {}},
}

func nodeYAML(node *topo.Node, cordoned bool) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: %s}
spec: {unschedulable: %v}
status:
  addresses:
  - {type: InternalIP, address: %s}
  - {type: InternalIP, address: "%s"}
`, node.Name, cordoned, node.IP4, node.IP6)
}

// TestFailover measures the silence of each case of failover (make bench-failover).
func TestFailover(t *testing.T) {
	if *failovers == 0 {
		t.Skip("-failover is 0: make bench-failover measures")
	}
	for _, c := range cases {
		if strings.Contains(c.name, *onlyCase) {
			t.Run(c.name, func(t *testing.T) { measure(t, c) })
		}
	}
}

func measure(t *testing.T, c failoverCase) {
	s := newSetup(t, 3, true)
	s.local = map[string]*topo.Pod{}
	for i, node := range s.Nodes {
		pod := s.addPod(t, i, "local-"+node.Name)
		check(t, s.manifests.WritePod(pod, "app: local"))
		s.local[node.Name] = pod
	}
	s.addPod(t, 2, "web")
	// Of some addresses one is at a node without an endpoint: what is measured is not the loss of an endpoint.
	policy := "externalTrafficPolicy: Cluster"
	if strings.Contains(c.name, "local") {
		policy = "externalTrafficPolicy: Local"
	}
	var services []string
	for i := range 5 {
		services = append(services, fmt.Sprint("s", i))
		s.addService(t, services[i], policy)
		if strings.Contains(policy, "Local") {
			s.relabel(t, services[i], "local")
		}
	}
	start(t, s.agents...)
	var addr netip.Addr
	at := ""
	for _, name := range services {
		a := s.addresses(t, s.agents[0], name)[0]
		if at = s.awaitHolder(t, a, s.agents); at != s.Nodes[2].Name {
			addr = a
			break
		}
	}
	if !addr.IsValid() {
		t.Fatal("all addresses are at the node with the endpoint")
	}
	prober(t, s.Laptop, addr)
	client := s.sender(t, addr)
	agent, others := s.others(at)
	time.Sleep(20 * time.Second) // by then every agent knows what the others did before it
	var silences, unanswered []time.Duration
	moved := 0
	for range *failovers {
		began := time.Now()
		c.do(t, s, agent)
		if c.stays {
			time.Sleep(c.settle)
			if now := s.recorder.holders(addr, began); len(now) != 1 || now[0] != at {
				t.Errorf("it was answered for by %v, and should have stayed at %s", now, at)
			}
		} else {
			next := s.awaitMove(t, addr, at, began)
			time.Sleep(c.settle)
			if got := s.recorder.holders(addr, began); len(got) > 2 || got[len(got)-1] != next {
				t.Errorf("it was answered for by %v", got)
			}
			moved++
		}
		silences = append(silences, client.silence(began))
		unanswered = append(unanswered, s.recorder.unanswered(addr, began))
		began = time.Now()
		c.undone(t, s, agent)
		if !c.stays {
			s.awaitMove(t, addr, "", began, at)
			s.awaitHolder(t, addr, append([]*cluster.Agent{agent}, others...), others[0].Node.Name, others[1].Node.Name)
		}
		time.Sleep(300 * time.Millisecond)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%-26s n=%d  client that sends each 10 ms: p50 %v p99 %v; host that asks each 10 ms: p50 %v p99 %v; requests answered by two nodes: %d; load %s",
		c.name, len(silences), percentile(silences, 50), percentile(silences, 99), percentile(unanswered, 50), percentile(unanswered, 99), s.recorder.doubles(), load)
	s.neverTwo(t)
}

// relabel has a Service select other pods.
func (s *setup) relabel(t *testing.T, name, app string) {
	t.Helper()
	file := s.manifests.Dir + "/" + name + ".yaml"
	raw, err := os.ReadFile(file)
	check(t, err)
	check(t, s.manifests.Write(name+".yaml", strings.Replace(string(raw), "app: web", "app: "+app, 1)))
}

// awaitMove waits until a node answers on the wire that is not the one given, or is one of those that are.
func (s *setup) awaitMove(t *testing.T, addr netip.Addr, from string, began time.Time, to ...string) string {
	t.Helper()
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if all := s.recorder.holders(addr, began); len(all) > 0 {
			if last := all[len(all)-1]; last != from && (len(to) == 0 || slices.Contains(to, last)) {
				return last
			}
		}
	}
	t.Fatalf("%s does not move from %s; answers by %v", addr, from, s.recorder.holders(addr, began))
	return ""
}

func percentile(list []time.Duration, p int) time.Duration {
	list = slices.Sorted(slices.Values(list))
	if len(list) == 0 {
		return 0
	}
	return list[min(len(list)-1, len(list)*p/100)].Round(time.Millisecond)
}
