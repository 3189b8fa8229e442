// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

const lan = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [192.168.1.128/25, "fd00:192:168:1::8000/113"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: lan, namespace: metallb-system}
`

// setup is nodes on one Ethernet with agents that announce, from one directory of manifests.
type setup struct {
	*topo.Network
	manifests cluster.Manifests
	agents    []*cluster.Agent
	recorder  *recorder
	local     map[string]*topo.Pod // by node, of tests that need one on each
}

// newSetup makes so many nodes. The agents are not started.
func newSetup(t *testing.T, nodes int, xdp bool, flags ...string) *setup {
	t.Helper()
	n, err := topo.New(topo.Options{Nodes: nodes, TxOffload: !xdp, XDPPeers: xdp})
	check(t, err)
	return newSetupOn(t, n, xdp, flags...)
}

func newSetupOn(t *testing.T, n *topo.Network, xdp bool, flags ...string) *setup {
	t.Helper()
	t.Cleanup(func() { check(t, n.Close()) })
	s := &setup{Network: n, manifests: cluster.Manifests{Dir: t.TempDir()}}
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	check(t, os.WriteFile(key, []byte("a secret of these tests\n"), 0o600))
	var peers []string
	for _, node := range n.Nodes {
		peers = append(peers, node.IP4.String())
	}
	for _, node := range n.Nodes {
		check(t, s.manifests.WriteNode(node))
		args := []string{"--map-size=flows4=65536,flows6=65536,backends=8192,slots=16384", "--xdp=off"}
		if xdp {
			args[1] = "--xdp=always"
		}
		if len(n.Nodes) > 1 { // one alone needs none of it
			args = append(args, "--peers="+strings.Join(peers, ","), "--members-key-file="+key)
		}
		a := cluster.NewAgent(n, node, cluster.AgentOptions{Binary: waggle, Manifests: s.manifests.Dir, Dir: dir, Args: append(args, flags...)})
		s.agents = append(s.agents, a)
		t.Cleanup(func() {
			if t.Failed() {
				log, _ := os.ReadFile(a.LogFile)
				status, _ := a.CLI("status")
				list, _ := a.CLI("address", "list")
				t.Logf("agent on %s:\n%s\n%s\n%s", a.Node.Name, log, status, list)
			}
			a.Kill()
			check(t, a.Cleanup())
		})
	}
	s.recorder = record(t, n)
	check(t, s.manifests.Write("lan.yaml", lan))
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start starts agents at the same time.
func start(t *testing.T, agents ...*cluster.Agent) {
	t.Helper()
	errs := make([]error, len(agents))
	var all sync.WaitGroup
	for i, a := range agents {
		all.Go(func() { errs[i] = a.Start() })
	}
	all.Wait()
	check(t, errors.Join(errs...))
}

// addPod makes a pod that serves, and its manifest.
func (s *setup) addPod(t *testing.T, node int, name string) *topo.Pod {
	t.Helper()
	pod, err := s.Nodes[node].AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}, UDP: []uint16{5353}})
	check(t, err)
	check(t, s.manifests.WritePod(pod, "app: web"))
	return pod
}

// addService writes a load balancer of both families.
func (s *setup) addService(t *testing.T, name string, more ...string) {
	t.Helper()
	check(t, s.manifests.Write(name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  type: LoadBalancer
  selector: {app: web}
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: udp, port: 53, targetPort: 5353, protocol: UDP}
  %s
`, name, strings.Join(more, "\n  "))))
}

// list is what an agent says of addresses.
func list(t *testing.T, a *cluster.Agent) (all []status.Address) {
	t.Helper()
	out, err := a.CLI("address", "list", "-o", "json")
	check(t, err)
	check(t, json.Unmarshal([]byte(out), &all))
	return all
}

// addresses waits until a Service has both addresses, in the eyes of an agent, and returns them.
func (s *setup) addresses(t *testing.T, a *cluster.Agent, service string) (found []netip.Addr) {
	t.Helper()
	await.Until(t, func() (string, bool) {
		found = nil
		for _, at := range list(t, a) {
			if len(at.Services) > 0 && at.Services[0] == "default/"+service {
				found = append(found, netip.MustParseAddr(at.Address))
			}
		}
		return fmt.Sprintf("%s has %v", service, found), len(found) == 2
	})
	return found
}

// holder is the node that announces an address, as an agent knows it; empty: none.
func holder(t *testing.T, a *cluster.Agent, addr netip.Addr) string {
	t.Helper()
	for _, at := range list(t, a) {
		if at.Address == addr.String() && at.Announced != nil {
			return at.Announced.Holder
		}
	}
	return ""
}

// awaitHolder waits until all of some agents say that a node other than those given announces an address.
func (s *setup) awaitHolder(t *testing.T, addr netip.Addr, agents []*cluster.Agent, not ...string) (node string) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("%s is at %s after %v", addr, node, time.Since(began).Round(time.Millisecond)) }()
	await.Until(t, func() (string, bool) {
		node = holder(t, agents[0], addr)
		for _, n := range not {
			if node == n {
				return addr.String() + " stays at " + node, false
			}
		}
		for _, a := range agents[1:] {
			if other := holder(t, a, addr); other != node {
				return fmt.Sprintf("%s is at %q in the eyes of %s, at %q in those of %s", addr, node, agents[0].Node.Name, other, a.Node.Name), false
			}
		}
		return addr.String() + " is nowhere", node != ""
	})
	return node
}

// others are the agents but one, which is returned too.
func (s *setup) others(node string) (one *cluster.Agent, others []*cluster.Agent) {
	for _, a := range s.agents {
		if a.Node.Name == node {
			one = a
			continue
		}
		others = append(others, a)
	}
	return one, others
}

// setLink cuts the link of a node at the bridge, or mends it.
func (s *setup) setLink(t *testing.T, node string, up bool) {
	t.Helper()
	port, err := s.Link.Link(node)
	check(t, err)
	set := (*netlink.Handle).LinkSetDown
	if up {
		set = (*netlink.Handle).LinkSetUp
	}
	check(t, set(s.Link.Netlink(), port))
}

// expectMoves fails the test if other nodes than these have answered for an address since a time, or in another order.
func (s *setup) expectMoves(t *testing.T, what string, addr netip.Addr, began time.Time, nodes ...string) {
	t.Helper()
	if got := s.recorder.holders(addr, began); fmt.Sprint(got) != fmt.Sprint(nodes) {
		t.Errorf("%s: %s was answered for by %v in this order; want %v\n%s", what, addr, got, nodes, s.transitions(addr, began))
	}
}

// expectSettled: a node answers for an address after agents have started. Another may have begun before they were
// members, as is likely where they start slowly; then it has given way.
func (s *setup) expectSettled(t *testing.T, addr netip.Addr, node string) {
	t.Helper()
	got := s.recorder.holders(addr, time.Time{})
	different := slices.Compact(slices.Sorted(slices.Values(got)))
	if len(got) == 0 || got[len(got)-1] != node || len(different) < len(got) {
		t.Errorf("%s was answered for by %v in this order; want %s, or at last %s\n%s", addr, got, node, node, s.transitions(addr, time.Time{}))
	}
}

// transitions are the answers around the changes from one node to another.
func (s *setup) transitions(addr netip.Addr, began time.Time) string {
	var b strings.Builder
	all := s.recorder.since(addr, began)
	for i, a := range all {
		if i == 0 || i == len(all)-1 || all[i-1].node != a.node || all[i+1].node != a.node {
			fmt.Fprintf(&b, "%v %s asked %d\n", a.at.Sub(began), a.node, a.asked)
		}
	}
	return b.String()
}
