// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// thinMTU is the MTU of links in the middle of a path, which neither end knows.
const thinMTU = 1300

// pathMTU is a network in which every smaller MTU has to be learnt: a client behind a router with a
// thin link; pods on both nodes with such links, and pods without; and a pod to which node-1 itself
// has a route with a smaller MTU.
type pathMTU struct {
	*setup
	laptop, thin *topo.Client
	pods         map[string]*topo.Pod
}

var mtuServices = []service{
	{name: "local", number: 1}, {name: "remote", number: 2},
	{name: "thin-local", number: 3}, {name: "thin-remote", number: 4},
	{name: "narrow-route", number: 5},
}

// TestPathMTU, of contract 41: bulk data gets through where only ICMP errors show the MTU, in both
// directions, and senders of too large packets learn it.
func TestPathMTU(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes {
			t.Run(fmt.Sprintf("%s/%s", podNetworkName(pods), m.name), func(t *testing.T) {
				testPathMTU(t, newPathMTU(t, pods, m), pods)
			})
		}
	}
}

func newPathMTU(t *testing.T, pods topo.PodNetwork, m mode) *pathMTU {
	t.Helper()
	s := &pathMTU{setup: newSetupOf(t, 3, pods, m), pods: map[string]*topo.Pod{}}
	for i, svc := range mtuServices {
		s.addService(t, svc)
		node := i % 2
		if svc.name == "narrow-route" {
			node = 1
		}
		pod := s.addPod(t, node, svc.name, "app: "+svc.name)
		s.pods[svc.name] = pod
		switch {
		case strings.HasPrefix(svc.name, "thin"):
			makeThin(t, pod)
		case svc.name == "narrow-route":
			offerLarge(t, pod)
		}
	}
	s.addThinClient(t)
	s.narrowRoute(t, pods)
	s.laptop = client(t, s.Laptop)
	for _, a := range s.agents[:2] {
		check(t, a.Start())
		check(t, a.AwaitEndpoints("narrow-route", anyEndpoint))
	}
	return s
}

func makeThin(t *testing.T, pod *topo.Pod) {
	t.Helper()
	check(t, setMTU(pod.Node.Host, pod.HostVeth, thinMTU))
	check(t, setMTU(pod.Host, "eth0", thinMTU))
	offerLarge(t, pod)
}

// offerLarge makes a pod ask for segments that need 1500 bytes, whatever its link can carry: the
// other side can only learn the MTU by an ICMP error.
func offerLarge(t *testing.T, pod *topo.Pod) {
	t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := pod.Netlink().RouteList(nil, family)
		check(t, err)
		for _, r := range routes {
			if r.Gw != nil {
				r.AdvMSS = 1440
				check(t, pod.Netlink().RouteReplace(&r))
			}
		}
	}
}

func setMTU(h *topo.Host, ifname string, mtu int) error {
	link, err := h.Link(ifname)
	if err != nil {
		return err
	}
	return h.Netlink().LinkSetMTU(link, mtu)
}

// addThinClient makes node-3, which runs no agent, a router of the Ethernet, and its pod a client.
func (s *pathMTU) addThinClient(t *testing.T) {
	t.Helper()
	router := s.Nodes[2]
	pod, err := router.AddPod("thin-client", topo.PodOptions{})
	check(t, err)
	makeThin(t, pod)
	for _, node := range s.Nodes[:2] {
		check(t, node.AddRoute(router.PodCIDR4, router.IP4))
		check(t, node.AddRoute(router.PodCIDR6, router.IP6))
	}
	s.thin = client(t, pod.Host)
}

// narrowRoute gives node-1 a route of its own to one pod. With a tunnel, the tunnel's MTU is the
// smaller one anyway.
func (s *pathMTU) narrowRoute(t *testing.T, pods topo.PodNetwork) {
	t.Helper()
	if pods != topo.Routed {
		return
	}
	pod, gateway := s.pods["narrow-route"], s.Nodes[1]
	for _, v6 := range bothFamilies {
		addr := addrOf(pod.Host, v6)
		check(t, s.Nodes[0].Netlink().RouteReplace(&netlink.Route{
			Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())},
			Gw:  addrOf(gateway.Host, v6).AsSlice(), MTU: thinMTU, MTULock: true,
		}))
	}
}

func anyEndpoint(all map[maps.Frontend][]netip.AddrPort) bool {
	for _, backends := range all {
		if len(backends) == 0 {
			return false
		}
	}
	return len(all) > 0
}

func testPathMTU(t *testing.T, s *pathMTU, pods topo.PodNetwork) {
	node := s.Nodes[0].Host
	for _, svc := range mtuServices {
		for _, v6 := range bothFamilies {
			to := svc.nodePort(addrOf(node, v6), http)
			t.Run(svc.name+"/"+familyName(v6), func(t *testing.T) {
				before, err := s.agents[0].Counters()
				check(t, err)
				peers := map[string]topo.Reply{
					"laptop": s.laptop.Post(topo.Request{To: to, Size: bulk}),
					"thin":   s.thin.Post(topo.Request{To: to, Size: bulk}),
				}
				for name, r := range peers {
					if !r.OK() || r.Bytes != bulk {
						t.Errorf("%s to %s: %d bytes: %s", name, to, r.Bytes, r)
					}
				}
				after, err := s.agents[0].Counters()
				check(t, err)
				s.checkLearnt(t, svc, pods, to, peers["thin"], v6)
				s.checkErrors(t, svc, after.Since(before))
			})
		}
	}
}

// checkLearnt checks the MTUs that the kernels of the senders have learnt.
func (s *pathMTU) checkLearnt(t *testing.T, svc service, pods topo.PodNetwork, to netip.AddrPort, thin topo.Reply, v6 bool) {
	t.Helper()
	if svc.name == "local" || svc.name == "remote" {
		if got := mtuTo(t, s.pods[svc.name].Host, thin.Remote.Addr()); got != thinMTU {
			t.Errorf("the pod takes the path to %s for %d bytes wide, want %d", thin.Remote, got, thinMTU)
		}
		return
	}
	want := thinMTU
	if svc.name == "narrow-route" && pods == topo.VXLAN {
		want = tunnelMTU
	}
	if got := mtuTo(t, s.Laptop, to.Addr()); got != want {
		t.Errorf("the laptop takes the path to %s for %d bytes wide, want %d", to, got, want)
	}
	// For the next service at this address.
	check(t, s.forgetMTU(s.Laptop, v6))
}

// tunnelMTU is the MTU of the nodes' tunnel devices.
const tunnelMTU = 1450

func mtuTo(t *testing.T, h *topo.Host, addr netip.Addr) int {
	t.Helper()
	routes, err := h.Netlink().RouteGet(addr.AsSlice())
	check(t, err)
	return routes[0].MTU
}

// forgetMTU drops the MTUs that a host has learnt of paths by the Ethernet.
func (s *pathMTU) forgetMTU(h *topo.Host, v6 bool) error {
	flush := []string{"-4", "route", "flush", "cache"}
	if v6 {
		flush[0] = "-6"
	}
	out, err := h.Command("ip", flush...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %v: %w: %s", flush, err, out)
	}
	return nil
}

// checkErrors expects that the errors were translated, or made.
func (s *pathMTU) checkErrors(t *testing.T, svc service, moved cluster.Counters) {
	t.Helper()
	counter := "tc-ingress/icmp-error"
	switch svc.name {
	case "narrow-route":
		counter = "tc-ingress/too-big"
	case "thin-local": // made by our own kernel
		counter = "tc-egress/icmp-error"
	}
	if moved[counter] == 0 {
		t.Errorf("counter %s did not move: %v", counter, moved)
	}
	for k, n := range moved {
		if strings.Contains(k, "/drop") {
			t.Errorf("%d packets ended in %s", n, k)
		}
	}
}

// TestICMPFromPath, of contract 41: errors of routers and hosts on the path reach the client, from
// the frontend that it knows: time exceeded, and port unreachable.
func TestICMPFromPath(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes[:2] {
			t.Run(fmt.Sprintf("%s/%s", podNetworkName(pods), m.name), func(t *testing.T) { icmpFromPath(t, pods, m) })
		}
	}
}

func icmpFromPath(t *testing.T, pods topo.PodNetwork, m mode) {
	s := newSetup(t, pods, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		pod, err := s.Nodes[node].AddPod(svc.name, topo.PodOptions{})
		check(t, err)
		check(t, s.manifests.WritePod(pod, "app: "+svc.name))
	}
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	for _, svc := range services {
		for _, w := range s.byPacket(c) {
			for _, v6 := range bothFamilies {
				to := w.to(svc, dns, v6)
				if r := w.client.UDPConnected(topo.Request{To: to}); r.Errno != "ECONNREFUSED" {
					t.Errorf("%s/%s: no listener at %s: %s, want ECONNREFUSED", svc.name, w.name, to, r)
				}
			}
		}
	}
	for i, svc := range services {
		for _, v6 := range bothFamilies {
			to := svc.nodePort(addrOf(s.Nodes[0].Host, v6), dns)
			// By the node, where the local pod's packets end, or by the next hop.
			got := sendWithHops(t, s.Laptop, to, i+1)
			if from := to.Addr(); got != from {
				t.Errorf("%s: time exceeded came from %v, want %s", to, got, from)
			}
		}
	}
}

// sendWithHops sends a datagram that gets no farther than so many hops, and returns the source of
// the error.
func sendWithHops(t *testing.T, h *topo.Host, to netip.AddrPort, hops int) netip.Addr {
	t.Helper()
	family, level, hopOption, errOption := unix.AF_INET, unix.SOL_IP, unix.IP_TTL, unix.IP_RECVERR
	var sa unix.Sockaddr
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		family, level, hopOption, errOption = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_RECVERR
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	var from netip.Addr
	check(t, h.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = errors.Join(
			unix.SetsockoptInt(fd, level, hopOption, hops), unix.SetsockoptInt(fd, level, errOption, 1),
			unix.Connect(fd, sa))
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("how far?")); err != nil {
			return err
		}
		from, err = awaitOffender(fd)
		return err
	}))
	return from
}

// awaitOffender reads the source of the ICMP error that a socket got, see ip(7), IP_RECVERR.
func awaitOffender(fd int) (netip.Addr, error) {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	if n, err := unix.Poll(poll, int(topo.Patient(5*time.Second).Milliseconds())); n == 0 || err != nil {
		return netip.Addr{}, errors.Join(errors.New("no ICMP error came"), err)
	}
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE)
	if err != nil {
		return netip.Addr{}, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return netip.Addr{}, err
	}
	for _, m := range messages {
		const extended = 16 // struct sock_extended_err; the offender's sockaddr follows
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR:
			return netip.AddrFrom4([4]byte(m.Data[extended+4 : extended+8])), nil
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR:
			return netip.AddrFrom16([16]byte(m.Data[extended+8 : extended+24])), nil
		}
	}
	return netip.Addr{}, errors.New("an error, but not by ICMP")
}
