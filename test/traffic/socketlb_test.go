// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"math/bits"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// socketLBHost leaves pods to the packet hooks.
const socketLBHost = "--socket-lb=host"

// firewall admits only cluster IPs, as one written for Services does.
const firewall = `table inet firewall {
	chain out {
		type filter hook output priority 0; policy drop
		ip daddr 10.96.0.0/16 accept
		ip6 daddr fd00:10:96::/112 accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
}`

// sidecar redirects all connections to cluster IPs to a proxy in the pod, as a service mesh does.
const sidecar = `table inet sidecar {
	chain out {
		type nat hook output priority -100
		ip daddr 10.96.0.0/16 meta l4proto { tcp, udp } redirect to :15001
		ip6 daddr fd00:10:96::/112 meta l4proto { tcp, udp } redirect to :15001
	}
}`

// TestSocketLBHost, of contract 51: with --socket-lb=host, what a pod sends keeps the cluster IP
// until it has left the pod. Processes of the node are still connected by socket.
func TestSocketLBHost(t *testing.T) {
	s, c, services := twoServices(t, modes[1], socketLBHost)
	process := client(t, s.Nodes[0].Host)
	t.Run("packet", func(t *testing.T) { s.servedBy(t, c.inside, services, "tc-pod/stack", "sock/sock-connect") })
	t.Run("socket", func(t *testing.T) { s.servedBy(t, process, services, "sock/sock-connect", "tc-pod/stack") })
	t.Run("firewall", func(t *testing.T) {
		nft(t, c.insidePod.Host, firewall)
		s.servedBy(t, c.inside, services, "tc-pod/stack", "sock/sock-sendmsg")
		nft(t, c.insidePod.Host, "delete table inet firewall")
	})
	t.Run("sidecar", func(t *testing.T) { throughSidecar(t, c, services) })
}

// servedBy makes all kinds of requests, and expects one counter to move and another not to.
func (s *setup) servedBy(t *testing.T, c *topo.Client, services []service, moves, rests string) {
	t.Helper()
	for _, svc := range services {
		for _, v6 := range bothFamilies {
			before := s.counters(t)
			tcp, udp := svc.clusterIP(http, v6), svc.clusterIP(dns, v6)
			checkAnswers(t, "cluster IP", svc.name, exchanges(c, topo.Request{To: tcp}, topo.Request{To: udp}), tcp, udp)
			now := s.counters(t).Since(before)
			if now[moves] == 0 || now[rests] != 0 {
				t.Errorf("to %s: %s counts %d, want some; %s counts %d, want none", tcp, moves, now[moves], rests, now[rests])
			}
		}
	}
}

// counters are those of node-1.
func (s *setup) counters(t *testing.T) cluster.Counters {
	t.Helper()
	all, err := s.agents[0].Counters()
	check(t, err)
	return all
}

// throughSidecar connects to services where a proxy in the client's own pod takes the connections.
func throughSidecar(t *testing.T, c *clients, services []service) {
	nft(t, c.insidePod.Host, sidecar)
	_, err := c.insidePod.Serve(topo.Ports{UDP: []uint16{15001}})
	check(t, err)
	for _, v6 := range bothFamilies {
		l := sidecarListener(t, c.insidePod, v6)
		for _, svc := range services {
			to := svc.clusterIP(http, v6)
			check(t, c.inside.Connect(topo.Request{To: to}).Error())
			if got := originalDestination(t, l, v6); got != to {
				t.Errorf("SO_ORIGINAL_DST in the pod says %s, want %s", got, to)
			}
			// Datagrams have no such option; a rule that has matched proves the same.
			udp := svc.clusterIP(dns, v6)
			if r := c.inside.UDPConnected(topo.Request{To: udp, Size: 100}); !r.OK() || r.Pod != "inside" {
				t.Errorf("a datagram to %s past the pod's proxy: %s", udp, r)
			}
		}
	}
}

func sidecarListener(t *testing.T, pod *topo.Pod, v6 bool) (l *net.TCPListener) {
	t.Helper()
	network := map[bool]string{false: "tcp4", true: "tcp6"}[v6]
	check(t, pod.Do(func() (err error) {
		l, err = net.ListenTCP(network, &net.TCPAddr{Port: 15001})
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// originalDestination accepts a connection and asks netfilter for its original destination.
func originalDestination(t *testing.T, l *net.TCPListener, v6 bool) (to netip.AddrPort) {
	t.Helper()
	check(t, l.SetDeadline(time.Now().Add(topo.Patient(5*time.Second))))
	conn, err := l.AcceptTCP()
	check(t, err)
	defer conn.Close()
	raw, err := conn.SyscallConn()
	check(t, err)
	var failed error
	check(t, raw.Control(func(fd uintptr) { to, failed = soOriginalDst(int(fd), v6) }))
	check(t, failed)
	return to
}

// soOriginalDst is SO_ORIGINAL_DST, and for IPv6 the option with that number. The package's
// structures for other options are as large as the addresses that these options return.
func soOriginalDst(fd int, v6 bool) (netip.AddrPort, error) {
	if v6 {
		info, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), bits.ReverseBytes16(info.Addr.Port)), nil
	}
	raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := raw.Multiaddr // a sockaddr_in
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}
