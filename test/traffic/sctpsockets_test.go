// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

const sctpSocketsYAML = `apiVersion: v1
kind: Service
metadata:
  name: %[1]s
spec:
  type: NodePort
  selector: {app: %[1]s}
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.%[2]d", "fd00:10:96::%[2]d"]
  ports:
  - {name: sctp, port: 99, targetPort: 9900, protocol: SCTP, nodePort: 3000%[2]d}
`

// TestSCTPSockets: associations of real sockets, on all paths of packets. (test/prog tests the packets one by one, on
// kernels without such sockets, too. Those tests name the contract's row.)
func TestSCTPSockets(t *testing.T) {
	if !topo.HaveSCTP() {
		t.Skip("this kernel has no SCTP sockets")
	}
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes {
			t.Run(podNetworkName(pods)+"/"+m.name, func(t *testing.T) { sctpSockets(t, pods, m) })
		}
	}
}

func sctpSockets(t *testing.T, network topo.PodNetwork, m mode) {
	s := newSetup(t, network, m)
	backends := map[string]*topo.Pod{}
	for _, target := range targets {
		check(t, s.manifests.Write(target.name+".yaml", fmt.Sprintf(sctpSocketsYAML, target.name, target.number)))
		pod, err := s.Nodes[target.node].AddPod(target.name, topo.PodOptions{})
		check(t, err)
		_, err = pod.Serve(topo.Ports{SCTP: []uint16{9900}})
		check(t, err)
		check(t, s.manifests.WritePod(pod, "app: "+target.name))
		backends[target.name] = pod
	}
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, 2*len(targets))
	port := func(t target, _ bool) uint16 { return uint16(30000 + t.number) }
	ways := []frontend{frontends[0], {
		name:   "clusterip-packet",
		addr:   clusterIP,
		port:   func(target, bool) uint16 { return 99 },
		client: func(c *clients) *topo.Client { return c.outside },
	}}
	ways[0].port = port
	for _, target := range targets {
		for _, f := range ways {
			for _, v6 := range bothFamilies {
				t.Run(fmt.Sprintf("%s/%s/%s", target.name, f.name, familyName(v6)), func(t *testing.T) {
					associateSockets(t, s, f.client(c), m, network, target, f, backends[target.name], v6)
				})
			}
		}
	}
}

// associateSockets sends data in both directions through one combination, twice from the same port: the second
// association follows the end of the first.
func associateSockets(t *testing.T, s *setup, c *topo.Client, m mode, pods topo.PodNetwork, target target, f frontend, pod *topo.Pod, v6 bool) {
	before, err := s.agents[0].Counters()
	check(t, err)
	to := netip.AddrPortFrom(f.addr(s, target, v6), f.port(target, false))
	for range 2 {
		request := topo.Request{To: to, SCTP: true, SourcePort: 45000, Size: 20000, Count: 3}
		reply := c.Echo(request)
		// The end of the earlier association may be under way.
		for deadline := time.Now().Add(topo.Patient(5 * time.Second)); reply.Errno == "EADDRNOTAVAIL" && time.Now().Before(deadline); {
			reply = c.Echo(request)
		}
		if reply.OK() && reply.Bytes != 60000 {
			t.Errorf("%d bytes came back", reply.Bytes)
		}
		checkReply(t, s, reply, target, f, pod, to)
	}
	after, err := s.agents[0].Counters()
	check(t, err)
	checkPath(t, after.Since(before), m, pods, target, f, false)
}
