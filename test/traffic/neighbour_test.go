// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// The express path keeps next hops in its records. These tests change what it keeps there.

// expressStreams are a TCP and a UDP stream of each family from the laptop by node-1 to a pod on
// node-2.
type expressStreams struct {
	streams map[string]*topo.Stream
	locals  map[string]netip.AddrPort
}

func openExpress(t *testing.T, s *setup, c *clients, svc service) expressStreams {
	t.Helper()
	out := expressStreams{map[string]*topo.Stream{}, map[string]netip.AddrPort{}}
	for _, v6 := range bothFamilies {
		node := addrOf(s.Nodes[0].Host, v6)
		stream, reply := c.laptop.OpenTCP(topo.Request{To: svc.nodePort(node, echo), Timeout: 20 * time.Second})
		out.add(t, "tcp/"+familyName(v6), stream, reply)
		// Lost datagrams stay lost: the loop of each test repeats them.
		stream, reply = c.laptop.OpenUDP(topo.Request{To: svc.nodePort(node, dns), Timeout: 200 * time.Millisecond})
		out.add(t, "udp/"+familyName(v6), stream, reply)
	}
	out.goOn(t)
	return out
}

func (e expressStreams) add(t *testing.T, name string, stream *topo.Stream, reply topo.Reply) {
	t.Helper()
	if !reply.OK() {
		t.Fatalf("%s: %s", name, reply)
	}
	e.streams[name], e.locals[name] = stream, reply.Local
}

// goOn expects all streams to work within a bounded time. UDP comes first: TCP would pause for
// longer and longer between its attempts.
func (e expressStreams) goOn(t *testing.T) {
	t.Helper()
	for _, proto := range []string{"udp", "tcp"} {
		var all sync.WaitGroup
		for name, stream := range e.streams {
			if strings.HasPrefix(name, proto) {
				all.Go(func() { goOn(t, name, stream) })
			}
		}
		all.Wait()
	}
}

func goOn(t *testing.T, name string, stream *topo.Stream) {
	deadline := time.Now().Add(topo.Patient(20 * time.Second))
	reply := stream.Exchange(1000)
	for !reply.OK() && time.Now().Before(deadline) {
		reply = stream.Exchange(1000)
	}
	if !reply.OK() {
		t.Errorf("the stream %s stands still: %s", name, reply)
	}
}

// TestNeighbourChange: the Ethernet address of the next hop changes under streams.
func TestNeighbourChange(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			s, c, services := twoServices(t, m)
			streams := openExpress(t, s, c, services[1])
			t.Run("forgotten", func(t *testing.T) { forgetNeighbours(t, s); streams.goOn(t) })
			t.Run("announced", func(t *testing.T) { changeMAC(t, s, true, 1); streams.goOn(t) })
			t.Run("silent", func(t *testing.T) { changeMAC(t, s, false, 2); streams.goOn(t) })
		})
	}
}

// forgetNeighbours deletes node-1's neighbour entries of node-2.
func forgetNeighbours(t *testing.T, s *setup) {
	t.Helper()
	eth0, err := s.Nodes[0].Link("eth0")
	check(t, err)
	for _, v6 := range bothFamilies {
		check(t, s.Nodes[0].Netlink().NeighDel(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index,
			IP:        addrOf(s.Nodes[1].Host, v6).AsSlice(),
		}))
	}
}

// changeMAC gives node-2 another Ethernet address. If it is not announced, node-1 has to find it by
// asking, as the kernel does for entries in use that nothing has confirmed for a while.
func changeMAC(t *testing.T, s *setup, announced bool, last byte) {
	t.Helper()
	notify := "0"
	if announced {
		notify = "1"
	}
	node := s.Nodes[1]
	check(t, node.Sysctl("net.ipv4.conf.eth0.arp_notify", notify))
	check(t, node.Sysctl("net.ipv6.conf.eth0.ndisc_notify", notify))
	for _, family := range []string{"ipv4", "ipv6"} { // the smallest times that the kernel accepts
		prefix := "net." + family + ".neigh.eth0."
		check(t, s.Nodes[0].Sysctl(prefix+"base_reachable_time_ms", "500"))
		check(t, s.Nodes[0].Sysctl(prefix+"delay_first_probe_time", "1"))
		check(t, s.Nodes[0].Sysctl(prefix+"retrans_time_ms", "100"))
	}
	eth0, err := node.Link("eth0")
	check(t, err)
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0x77, last}
	check(t, node.Netlink().LinkSetHardwareAddr(eth0, mac))
}

// TestRouteChange: the route to the other node's pods is moved to another next hop, node-3.
func TestRouteChange(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { routeChange(t, m) })
	}
}

func routeChange(t *testing.T, m mode) {
	s := newSetupOf(t, 3, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	streams := openExpress(t, s, c, web)
	detour := s.Nodes[2]
	check(t, s.Nodes[0].AddRoute(pod.Node.PodCIDR4, detour.IP4))
	check(t, s.Nodes[0].AddRoute(pod.Node.PodCIDR6, detour.IP6))
	mac, err := detour.MAC("eth0")
	check(t, err)
	for name, local := range streams.locals {
		awaitNextHop(t, s, streams, name, local, mac)
	}
	streams.goOn(t)
}

// awaitNextHop keeps a stream going until its packets are sent to an Ethernet address.
func awaitNextHop(t *testing.T, s *setup, e expressStreams, name string, local netip.AddrPort, mac net.HardwareAddr) {
	t.Helper()
	var last []maps.Flow
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); time.Now().Before(deadline); {
		if reply := e.streams[name].Exchange(100); !reply.OK() {
			t.Fatalf("%s: %s", name, reply)
		}
		var err error
		last, err = s.agents[0].Flows(local)
		check(t, err)
		if slices.ContainsFunc(last, func(f maps.Flow) bool { return bytes.Equal(f.NextHop.MAC, mac) }) {
			return
		}
	}
	t.Errorf("%s: no packets go to %s: %v", name, mac, last)
}

// TestDeviceComesBack: a pod is replaced by one with the same name and addresses, and so is its
// device on the node. The agent attaches the new one.
func TestDeviceComesBack(t *testing.T) {
	s, _, services := twoServices(t, modes[1])
	node := s.Nodes[0]
	known := map[int]bool{}
	for round := range 3 {
		pod, err := node.AddPod("replaced", topo.PodOptions{OutsideCgroup: true, Number: 100})
		check(t, err)
		device, err := node.Link(pod.HostVeth)
		check(t, err)
		index := device.Attrs().Index
		if known[index] {
			t.Fatalf("the device has an old index, %d", index)
		}
		known[index] = true
		s.awaitDevice(t, pod.HostVeth, index)
		packets, err := pod.Client()
		check(t, err)
		for _, svc := range services {
			for _, v6 := range bothFamilies {
				if r := packets.Get(topo.Request{To: svc.clusterIP(http, v6)}); r.Pod != svc.name {
					t.Errorf("round %d, %s: %s", round, svc.name, r)
				}
			}
		}
		check(t, packets.Close())
		check(t, node.RemovePod(pod))
	}
	s.awaitDevice(t, "veth-replaced", 0)
}

// awaitDevice waits until the agent of node-1 has attached a device or, with the index 0, until it
// has removed it.
func (s *setup) awaitDevice(t *testing.T, name string, index int) {
	t.Helper()
	check(t, s.agents[0].Await(fmt.Sprintf("device %s with index %d", name, index), func(st *status.Status) bool {
		at := slices.IndexFunc(st.Devices, func(d status.Device) bool { return d.Name == name })
		if at < 0 {
			return index == 0
		}
		d := st.Devices[at]
		return d.Ifindex == index && d.TC == "attached" && d.Role == status.RolePod
	}))
}
