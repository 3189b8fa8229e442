// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var binary string

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("bird"); err != nil {
		fmt.Println("skipping these tests: they need bird, see make test-bgp")
		os.Exit(0)
	}
	cluster.Main(m, &binary)
}

// The addresses that the examples announce, and a Service that gets two of them.
const (
	pool4, pool6 = "203.0.113.0/24", "2001:db8:113::/64"
	manifests    = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bgp, namespace: metallb-system}
spec: {addresses: ["203.0.113.0/24", "2001:db8:113::/64"]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`
)

// settle is how long BIRD may take to end its sessions.
const settle = 10 * time.Second

// fabric is a client behind a router that learns from the nodes where the addresses are.
type fabric struct {
	*topo.Network
	agents         []*cluster.Agent
	router, client *topo.Host
	asks           *topo.Client
	addresses      []netip.Addr
	birds          map[*topo.Host]*topo.Command
	dir            string
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	n, err := topo.New(topo.ForXDP())
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	f := &fabric{Network: n, birds: map[*topo.Host]*topo.Command{}, dir: t.TempDir()}
	m := cluster.Manifests{Dir: t.TempDir()}
	check(t, m.Write("web.yaml", manifests))
	for i, node := range n.Nodes {
		check(t, m.WriteNode(node))
		pod, err := node.AddPod(fmt.Sprintf("web-%d", i), topo.PodOptions{})
		check(t, err)
		_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}})
		check(t, err)
		check(t, m.WritePod(pod, "app: web"))
	}
	f.addClient(t)
	for _, node := range n.Nodes {
		a := cluster.NewAgent(n, node, cluster.AgentOptions{Binary: binary, Manifests: m.Dir, Dir: f.dir,
			Args: []string{"--xdp=always", "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"}})
		f.agents = append(f.agents, a)
		t.Cleanup(func() {
			if t.Failed() {
				f.show(t, a)
			}
			a.Kill()
			check(t, a.Cleanup())
		})
		check(t, a.Start())
		check(t, a.Await("the service", func(s *status.Status) bool { return s.Proxy.Services == 2 }))
	}
	f.readAddresses(t)
	return f
}

// addClient makes the router and, behind it, the client. The nodes have a route to the client, as by their default route.
func (f *fabric) addClient(t *testing.T) {
	t.Helper()
	var err error
	f.router, err = f.AddMachine("router") // the first machine has the address that the examples name
	check(t, err)
	f.client, err = f.AddMachine("client")
	check(t, err)
	check(t, f.AddEthernet(f.router, f.client))
	check(t, f.client.DelLink("eth0"))
	for name, value := range map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
		"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv6.fib_multipath_hash_policy": "1"} {
		check(t, f.router.Sysctl(name, value))
	}
	router4, router6 := topo.Second(f.router)
	client4, client6 := topo.Second(f.client)
	for _, node := range f.Nodes {
		check(t, errors.Join(node.AddRoute(topo.Single(client4), f.router.IP4), node.AddRoute(topo.Single(client6), f.router.IP6)))
	}
	for _, route := range []struct {
		to  string
		via netip.Addr
	}{{pool4, router4}, {pool6, router6}} {
		check(t, f.client.AddRoute(netip.MustParsePrefix(route.to), route.via))
	}
	f.asks, err = f.client.Client()
	check(t, err)
	t.Cleanup(func() { check(t, f.asks.Close()) })
}

func (f *fabric) readAddresses(t *testing.T) {
	t.Helper()
	out, err := f.agents[0].CLI("address", "list", "-o", "json")
	check(t, err)
	var list []status.Address
	check(t, json.Unmarshal([]byte(out), &list))
	for _, a := range list {
		f.addresses = append(f.addresses, netip.MustParseAddr(a.Address))
	}
	if len(f.addresses) != 2 {
		t.Fatalf("addresses %+v", list)
	}
}

func (f *fabric) show(t *testing.T, a *cluster.Agent) {
	out, _ := a.CLI("status")
	for host, argument := range map[*topo.Host]string{a.Node.Host: "all", f.router: "all"} {
		protocols, _ := host.Command("birdc", "-s", f.socket(host), "show", "protocols", argument).CombinedOutput()
		routes, _ := host.Command("ip", "route").CombinedOutput()
		out += fmt.Sprintf("%s:\n%s\n%s\n", host.Name, protocols, routes)
	}
	t.Log(out)
}

func (f *fabric) socket(h *topo.Host) string { return filepath.Join(f.dir, h.Name+".ctl") }

// startBIRD runs BIRD on a host with one of the examples, as it is.
func (f *fabric) startBIRD(t *testing.T, h *topo.Host, example string) {
	t.Helper()
	config, err := filepath.Abs(filepath.Join("../../deploy/bgp", example))
	check(t, err)
	log, err := os.OpenFile(filepath.Join(f.dir, h.Name+".bird"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	defer log.Close()
	bird := h.Command("bird", "-f", "-c", config, "-s", f.socket(h), "-P", filepath.Join(f.dir, h.Name+".pid"))
	bird.Stdout, bird.Stderr = log, log
	check(t, bird.Start())
	f.birds[h] = bird
}

var hop = regexp.MustCompile(`via (\S+)`)

// awaitRoutes waits until the router leads the pools to these nodes, and no others.
func (f *fabric) awaitRoutes(t *testing.T, nodes ...*topo.Node) {
	t.Helper()
	for _, pool := range []string{pool4, pool6} {
		var want []string
		for _, n := range nodes {
			addr := n.IP4
			if pool == pool6 {
				addr = n.IP6
			}
			want = append(want, addr.String())
		}
		slices.Sort(want)
		await.Until(t, func() (string, bool) {
			out, err := f.router.Command("ip", "route", "show", pool).CombinedOutput()
			if pool == pool6 {
				out, err = f.router.Command("ip", "-6", "route", "show", pool).CombinedOutput()
			}
			var have []string
			for _, m := range hop.FindAllStringSubmatch(string(out), -1) {
				have = append(have, m[1])
			}
			slices.Sort(have)
			return fmt.Sprintf("%s: %s %v, want %s", pool, out, err, want), slices.Equal(have, want)
		})
	}
}

// served has the client ask many times, and returns how many packets each node has handled.
func (f *fabric) served(t *testing.T, when string) (packets []uint64) {
	t.Helper()
	before := f.handled(t)
	for _, to := range f.addresses {
		pods := map[string]bool{}
		for range 40 {
			reply := f.asks.Get(topo.Request{To: netip.AddrPortFrom(to, 80)})
			if !reply.OK() {
				t.Fatalf("%s: %s: %s", when, to, reply)
			}
			pods[reply.Pod] = true
		}
		if len(pods) != 2 {
			t.Errorf("%s: %s is answered by %v", when, to, pods)
		}
	}
	for i, n := range f.handled(t) {
		packets = append(packets, n-before[i])
	}
	return packets
}

// handled counts the packets of flows that came in from outside.
func (f *fabric) handled(t *testing.T) (all []uint64) {
	t.Helper()
	for _, a := range f.agents {
		counters, err := a.Counters()
		check(t, err)
		all = append(all, counters["xdp/flow-opened"]+counters["tc-ingress/flow-opened"])
	}
	return all
}

// TestBGP: with the examples as they are, a router learns the addresses of load balancers from the nodes, spreads flows over
// them, and takes a node out that goes, or dies.
func TestBGP(t *testing.T) {
	f := newFabric(t)
	one, two := f.Nodes[0], f.Nodes[1]
	f.startBIRD(t, f.router, "router.conf")
	f.startBIRD(t, one.Host, "node.conf")
	f.awaitRoutes(t, one)
	if p := f.served(t, "by one node"); p[0] == 0 || p[1] != 0 {
		t.Errorf("by one node: flows %v", p)
	}
	f.startBIRD(t, two.Host, "node.conf")
	f.awaitRoutes(t, one, two)
	if p := f.served(t, "by two nodes"); p[0] == 0 || p[1] == 0 {
		t.Errorf("by two nodes: flows %v", p)
	}
	f.elsewhere(t)

	check(t, f.birds[two.Host].Stop(topo.Patient(settle)))
	f.awaitRoutes(t, one)
	f.served(t, "two has left")
	f.startBIRD(t, two.Host, "node.conf")
	f.awaitRoutes(t, one, two)

	f.agents[1].Kill() // the datapath goes on without its agent
	if p := f.served(t, "the agent of two is dead"); p[0] == 0 || p[1] == 0 {
		t.Errorf("the agent of two is dead: flows %v", p)
	}

	check(t, f.birds[two.Host].Process.Kill()) // as the node: nothing says goodbye
	f.awaitRoutes(t, one)
	f.served(t, "two is dead")
}

// elsewhere: the route that the example adds to the nodes keeps nothing from the Service, and ends what is for none.
func (f *fabric) elsewhere(t *testing.T) {
	t.Helper()
	node := f.Nodes[0]
	out, err := node.Command("ip", "route", "show", pool4).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "unreachable "+pool4) {
		t.Errorf("the route of node-1: %s %v", out, err)
	}
	asks, err := node.Client()
	check(t, err)
	defer asks.Close()
	for _, to := range f.addresses {
		if reply := asks.Get(topo.Request{To: netip.AddrPortFrom(to, 80)}); !reply.OK() {
			t.Errorf("node-1 itself to %s: %s", to, reply)
		}
	}
	for _, to := range []string{"203.0.113.255", "2001:db8:113::ffff"} {
		reply := f.asks.Connect(topo.Request{To: netip.AddrPortFrom(netip.MustParseAddr(to), 80)})
		if reply.Errno != "EHOSTUNREACH" && reply.Errno != "ENETUNREACH" {
			t.Errorf("%s, which no Service has: %s, want that it is unreachable", to, reply)
		}
	}
}
