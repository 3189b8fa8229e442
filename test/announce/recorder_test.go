// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// answer is a frame by which a node says that an address is at its MAC.
type answer struct {
	at   time.Time
	node string
	addr netip.Addr
	// asked is the request of the prober that it answers; 0: it was not asked for by the prober.
	asked int
}

// recorder collects the answers of the nodes, at their ports of the bridge.
type recorder struct {
	mu      sync.Mutex
	answers []answer
	ends    []func()
}

func record(t *testing.T, n *topo.Network) *recorder {
	t.Helper()
	r := &recorder{}
	for _, node := range n.Nodes {
		// The sockets of a protocol see nothing at a port of a bridge.
		fd := rawSocket(t, n.Link, node.Name, unix.ETH_P_ALL)
		ended, quit := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			r.read(fd, node.Name, quit)
		}()
		r.ends = append(r.ends, func() { close(quit); <-ended; unix.Close(fd) })
	}
	t.Cleanup(r.stop)
	return r
}

func (r *recorder) stop() {
	for _, end := range r.ends {
		end()
	}
	r.ends = nil
}

// rawSocket receives what comes in at a device.
func rawSocket(t *testing.T, h *topo.Host, ifname string, protocol uint16) (fd int) {
	t.Helper()
	link, err := h.Link(ifname)
	check(t, err)
	check(t, h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
			return err
		}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, answersOnly()); err != nil {
			return err
		}
		order := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, protocol))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: order, Ifindex: link.Attrs().Index})
	}))
	return fd
}

// answersOnly lets ARP and neighbour advertisements pass.
func answersOnly() *unix.SockFprog {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 54, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 1},
		bpf.RetConstant{Val: 2048},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
}

func (r *recorder) read(fd int, node string, quit chan struct{}) {
	buffer := make([]byte, 2048)
	for {
		select {
		case <-quit:
			return
		default:
		}
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			continue // nothing has come, or the device is down
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if a, ok := parse(buffer[:n]); ok {
			a.at, a.node = time.Now(), node
			r.mu.Lock()
			r.answers = append(r.answers, a)
			r.mu.Unlock()
		}
	}
}

// parse reads an answer to an ARP request or solicitation, or an announcement.
func parse(frame []byte) (a answer, ok bool) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if arp, is := packet.Layer(layers.LayerTypeARP).(*layers.ARP); is {
		sender, _ := netip.AddrFromSlice(arp.SourceProtAddress)
		target, _ := netip.AddrFromSlice(arp.DstProtAddress)
		switch {
		case arp.Operation == layers.ARPReply:
			a.addr = sender
			if b := target.As4(); proberNet.Contains(target) {
				a.asked = int(b[3])
			}
		case sender == target:
			a.addr = sender
		}
		return a, a.addr.IsValid()
	}
	if na, is := packet.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); is {
		a.addr, _ = netip.AddrFromSlice(na.TargetAddress)
		if ip, is := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6); is {
			if to, _ := netip.AddrFromSlice(ip.DstIP); proberNet6.Contains(to) {
				b := to.As16()
				a.asked = int(b[15])
			}
		}
		return a, true
	}
	return a, false
}

// since are the answers for an address after a time, in order.
func (r *recorder) since(addr netip.Addr, began time.Time) (list []answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.answers {
		if a.addr == addr && a.at.After(began) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(x, y answer) int { return x.at.Compare(y.at) })
	return list
}

// holders are the nodes that have answered for an address after a time, in order, each as long as no other one did.
func (r *recorder) holders(addr netip.Addr, began time.Time) (nodes []string) {
	for _, a := range r.since(addr, began) {
		if len(nodes) == 0 || nodes[len(nodes)-1] != a.node {
			nodes = append(nodes, a.node)
		}
	}
	return nodes
}

// doubles counts requests of the prober that two nodes have answered.
func (r *recorder) doubles() (count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	type request struct {
		addr  netip.Addr
		asked int
	}
	last := map[request]answer{}
	for _, a := range r.answers {
		if a.asked == 0 {
			continue
		}
		key := request{a.addr, a.asked}
		if b, is := last[key]; is && b.node != a.node && a.at.Sub(b.at).Abs() < proberEvery*requests/2 {
			count++
		}
		last[key] = a
	}
	return count
}

// neverTwo expects that no request was answered by two nodes.
func (s *setup) neverTwo(t *testing.T) {
	t.Helper()
	if n := s.recorder.doubles(); n > 0 {
		t.Errorf("%d requests were answered by two nodes", n)
	}
}

// The prober sends requests from addresses that no host has, each from another one, which distinguishes the answers.
const (
	proberEvery = 10 * time.Millisecond
	requests    = 200
)

var (
	proberNet  = netip.MustParsePrefix("192.0.2.0/24")
	proberNet6 = netip.MustParsePrefix("fe80::1:0/112")
)

// prober asks for addresses all the time, as a host would that has not asked before.
func prober(t *testing.T, h *topo.Host, addrs ...netip.Addr) {
	t.Helper()
	mac, err := h.MAC("eth0")
	check(t, err)
	fd := rawSocket(t, h, "eth0", unix.ETH_P_LOOP)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-time.After(proberEvery):
			}
			for _, a := range addrs {
				_, _ = unix.Write(fd, question(mac, a, 1+i%requests)) // the device may be down
			}
		}
	}()
	t.Cleanup(func() { close(quit); <-ended; unix.Close(fd) })
}

// question is an ARP request or a neighbour solicitation.
func question(mac net.HardwareAddr, addr netip.Addr, number int) []byte {
	buffer := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	var err error
	if addr.Is4() {
		from := proberNet.Addr().As4()
		from[3] = byte(number)
		err = gopacket.SerializeLayers(buffer, opts,
			&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
				SourceHwAddress: mac, SourceProtAddress: from[:], DstHwAddress: make([]byte, 6), DstProtAddress: addr.AsSlice()})
	} else {
		from, to := proberNet6.Addr().As16(), addr.As16()
		from[15] = byte(number)
		group := netip.MustParseAddr("ff02::1:ff00:0").As16()
		copy(group[13:], to[13:])
		ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: from[:], DstIP: group[:]}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
			panic(err)
		}
		err = gopacket.SerializeLayers(buffer, opts,
			&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0xff, group[13], group[14], group[15]}, EthernetType: layers.EthernetTypeIPv6},
			ip, icmp, &layers.ICMPv6NeighborSolicitation{TargetAddress: addr.AsSlice(),
				Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: mac}}})
	}
	if err != nil {
		panic(fmt.Sprint("a question: ", err))
	}
	return buffer.Bytes()
}
