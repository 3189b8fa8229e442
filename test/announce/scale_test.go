// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
)

const manyServices = 1000

// TestScale prints how long it takes until 2,000 addresses of 1,000 Services are announced by three nodes, how they are spread,
// what the agents cost when nothing happens, and how long it takes until the addresses of a node that dies are announced again
// (make bench-failover).
func TestScale(t *testing.T) {
	if *failovers == 0 {
		t.Skip("-failover is 0: make bench-failover measures")
	}
	s := newSetup(t, 3, true)
	for i, node := range s.Nodes {
		check(t, node.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("10.50.0.%d/16", i+1))))
	}
	s.addPod(t, 0, "web")
	start(t, s.agents...)
	time.Sleep(16 * time.Second)
	check(t, s.manifests.Write("lan.yaml", strings.NewReplacer("192.168.1.128/25", "10.50.16.0/20", "::8000/113", "::8000:0/98").Replace(lan)))
	var b strings.Builder
	for i := range manyServices {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: s%d}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: web}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: 8080}]}
`, i)
	}
	began := time.Now()
	check(t, s.manifests.Write("services.yaml", b.String()))
	s.awaitSpread(t, s.agents, began, 2*manyServices)

	before := cpu(t, s.agents)
	bytes := s.traffic(t)
	const idle = 20 * time.Second
	time.Sleep(idle)
	after := cpu(t, s.agents)
	sent := s.traffic(t)
	for i, a := range s.agents {
		fmt.Printf("%s: %.2f%% of a CPU, %.1f kbit/s sent, when nothing happens\n", a.Node.Name, 100*(after[i]-before[i]).Seconds()/idle.Seconds(),
			float64(sent[i]-bytes[i])*8/1000/idle.Seconds())
	}

	began = time.Now()
	s.agents[2].Kill()
	s.awaitSpread(t, s.agents[:2], began, 2*manyServices)
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("load %s", load)
}

// awaitSpread waits until so many addresses are announced, in the eyes of all of some agents, and prints by which nodes.
func (s *setup) awaitSpread(t *testing.T, agents []*cluster.Agent, began time.Time, count int) {
	t.Helper()
	given := time.Duration(0)
	await.Until(t, func() (string, bool) {
		spread, message := map[string]int{}, ""
		all := true
		for _, a := range agents {
			st, err := status.Read(a.RunDir)
			check(t, err)
			n := 0
			clear(spread)
			for _, at := range st.Addresses {
				for _, live := range agents {
					if at.Announced != nil && at.Announced.Holder == live.Node.Name {
						n++
						spread[at.Announced.Holder]++
					}
				}
			}
			if len(st.Addresses) == count && given == 0 {
				given = time.Since(began)
			}
			message += fmt.Sprintf("%s knows %d of %d; ", a.Node.Name, n, len(st.Addresses))
			all = all && n == count
		}
		if all {
			fmt.Printf("%d addresses are allocated after %v, announced after %v, by %v\n", count, given.Round(100*time.Millisecond), time.Since(began).Round(100*time.Millisecond), spread)
		}
		return message, all
	})
}

// cpu is how long agents have computed.
func cpu(t *testing.T, agents []*cluster.Agent) (all []time.Duration) {
	t.Helper()
	for _, a := range agents {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.Pid()))
		check(t, err)
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
		ticks := 0
		for _, i := range []int{11, 12} { // utime, stime
			n, err := strconv.Atoi(fields[i])
			check(t, err)
			ticks += n
		}
		all = append(all, time.Duration(ticks)*10*time.Millisecond)
	}
	return all
}

// traffic is how many bytes each node has sent.
func (s *setup) traffic(t *testing.T) (all []uint64) {
	t.Helper()
	for _, node := range s.Nodes {
		link, err := node.Link("eth0")
		check(t, err)
		all = append(all, link.Attrs().Statistics.TxBytes)
	}
	return all
}
