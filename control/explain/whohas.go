// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// asksMAC: the question is what becomes of a host's own question, for the MAC of an address.
func (q *Question) asksMAC() bool { return q.Proto == "arp" || q.Proto == "ndp" }

func (q *Question) checkWhoHas() error {
	switch {
	case q.Proto == "arp" && !q.To.Addr().Is4():
		return fmt.Errorf("--to %s: ARP asks for IPv4 addresses; use --proto ndp", q.To.Addr())
	case q.Proto == "ndp" && !q.To.Addr().Is6():
		return fmt.Errorf("--to %s: NDP asks for IPv6 addresses; use --proto arp", q.To.Addr())
	case q.To.Port() != 0:
		return fmt.Errorf("--to %s: want an address alone: hosts ask for the MAC of no port", q.To)
	case q.From.IsValid() && q.From.Addr().Is4() != q.To.Addr().Is4():
		return fmt.Errorf("--from %s: --to %s is of the other address family", q.From.Addr(), q.To.Addr())
	case q.Pod != "":
		return fmt.Errorf("--pod %s: not with --proto %s, which is answered on devices that lead out of the node", q.Pod, q.Proto)
	case q.Leaving:
		return fmt.Errorf("--leaving: not with --proto %s, which is answered as it comes in", q.Proto)
	}
	return nil
}

func (q *Question) describeWhoHas() string {
	by := "a host"
	if q.From.IsValid() {
		by = q.From.Addr().String()
	}
	return fmt.Sprintf("%s, %s asks for the MAC of %s", strings.ToUpper(q.Proto), by, q.To.Addr())
}

// whoHas explains what becomes of a host's question for the MAC of an address.
func (e *Explainer) whoHas(q Question) (*Answer, error) {
	d, err := e.placeWhoHas(&q)
	if err != nil {
		return nil, err
	}
	asked := q.describeWhoHas()
	if d.mac == nil {
		return &Answer{Asked: asked, Hooks: []Hook{}, Note: fmt.Sprintf("%s has no link layer, so hosts ask for no MAC there", d.name)}, nil
	}
	if !q.From.IsValid() {
		q.From = Outside(q.To.Addr())
	}
	frame, err := q.whoHasFrame()
	if err != nil {
		return nil, err
	}
	a, err := e.frame(d, frame, false)
	if err != nil {
		return nil, err
	}
	a.Asked = fmt.Sprintf("%s, enters by %s", asked, d.name)
	return a, nil
}

// placeWhoHas finds where the question comes in: where the address is announced, or else where the node would ask.
func (e *Explainer) placeWhoHas(q *Question) (device, error) {
	if q.Device != "" {
		return e.deviceNamed(q.Device)
	}
	places, err := e.announced(q.To.Addr())
	if err != nil {
		return device{}, err
	}
	if len(places) > 0 {
		return e.deviceNamed(deviceName(places[0].Ifindex))
	}
	return e.deviceTowards(q.To.Addr(), true)
}

// announced are the devices on which an address is announced.
func (e *Explainer) announced(addr netip.Addr) ([]maps.Place, error) {
	all, err := maps.NewAnnounced(e.view).All()
	if err != nil {
		return nil, err
	}
	var places []maps.Place
	for place := range all {
		if place.Addr == addr {
			places = append(places, place)
		}
	}
	slices.SortFunc(places, func(a, b maps.Place) int { return cmp.Compare(a.Ifindex, b.Ifindex) })
	return places, nil
}

// whoHasFrame is the question as hosts ask it that don't know the MAC (RFC 826; RFC 4861, 7.2.2).
func (q *Question) whoHasFrame() ([]byte, error) {
	from, to := q.From.Addr().AsSlice(), q.To.Addr().As16()
	if q.Proto == "arp" {
		return serialize(&layers.Ethernet{SrcMAC: strangerMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: strangerMAC, SourceProtAddress: from, DstHwAddress: make([]byte, 6), DstProtAddress: q.To.Addr().AsSlice(),
		})
	}
	group := netip.MustParseAddr("ff02::1:ff00:0").As16() // RFC 4291, 2.7.1
	copy(group[13:], to[13:])
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: from, DstIP: group[:]}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	mac := net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}
	return serialize(&layers.Ethernet{SrcMAC: strangerMAC, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, ip, icmp,
		&layers.ICMPv6NeighborSolicitation{
			TargetAddress: to[:], Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: strangerMAC}},
		})
}

func serialize(all ...gopacket.SerializableLayer) ([]byte, error) {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		return nil, fmt.Errorf("making a frame: %w", err)
	}
	return buffer.Bytes(), nil
}

// ends are who asks, and for which address, in a frame that a program has taken for such a question.
func ends(frame []byte) (protocol string, sender, target netip.Addr) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		sender, _ = netip.AddrFromSlice(arp.SourceProtAddress)
		target, _ = netip.AddrFromSlice(arp.DstProtAddress)
		return "ARP", sender, target
	}
	if ip, ok := p.NetworkLayer().(*layers.IPv6); ok {
		sender, _ = netip.AddrFromSlice(ip.SrcIP)
	}
	if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		target, _ = netip.AddrFromSlice(ns.TargetAddress)
	}
	return "NDP", sender, target
}

// whoHas describes a question for a MAC, and what the map of announced addresses says of it.
func (t *report) whoHas(trace *loader.Trace) {
	protocol, sender, target := ends(t.frame)
	by := sender.String()
	if sender.IsUnspecified() {
		by = "a host without an address, which looks for duplicates"
	}
	t.step("parsed", "%s, who has %s, asked by %s", protocol, target, by)
	steps := trace.Notes.Steps
	switch {
	case steps&bpf.TraceAnnounced == 0:
		t.step("announced", "%s is not announced on %s", target, t.device.name)
	case steps&bpf.TraceLapsed != 0:
		t.step("announced", "%s is announced on %s, but the time of the announcements is over", target, t.device.name)
	default:
		t.step("announced", "%s is announced on %s", target, t.device.name)
	}
}

// notAnnounced says why a question for a MAC is left to the stack.
func (t *report) notAnnounced(trace *loader.Trace) (reason, advice string, err error) {
	_, _, target := ends(t.frame)
	if trace.Notes.Steps&bpf.TraceLapsed != 0 {
		return t.lapsed()
	}
	if trace.Notes.Steps&bpf.TraceAnnounced != 0 {
		return fmt.Sprintf("the frame is for the MAC %s, which is not the one that is announced", net.HardwareAddr(t.frame[:6])), "", nil
	}
	places, err := t.announced(target)
	if err != nil {
		return "", "", err
	}
	var names []string
	for _, place := range places {
		names = append(names, deviceName(place.Ifindex))
	}
	reason = "this node does not announce the address here: the stack answers if it has the address itself"
	if len(names) > 0 {
		return reason, "It is announced on " + strings.Join(names, ", ") + ".", nil
	}
	return reason, "", nil
}

// lapsed says for how long the agent has not extended the time of its announcements.
func (t *report) lapsed() (reason, advice string, err error) {
	until, err := maps.NewAnnounced(t.view).Until()
	if err != nil {
		return "", "", err
	}
	when := "has not begun"
	if until != 0 {
		when = fmt.Sprintf("ended %s ago", (maps.Monotonic() - until).Round(time.Second))
	}
	return "the time for which the agent has the programs answer " + when + ": another node may have the address by now",
		"Does the agent run? `waggle status` and the agent's log say what keeps it from announcing.", nil
}

// Where a captured ARP frame has its addresses (RFC 826).
const (
	arpFrame          = ethernetHeader + 28
	arpSender, arpEnd = ethernetHeader + 14, ethernetHeader + 18
	arpTarget         = ethernetHeader + 24
)

// asker is who asks in an ARP frame; for one without an address, that for which it asks.
func (c *Captured) asker() (from netip.Addr, ok bool) {
	f := c.Frame
	if len(f) < arpFrame || binary.BigEndian.Uint16(f[ethernetHeader-2:]) != unix.ETH_P_ARP {
		return netip.Addr{}, false
	}
	from = netip.AddrFrom4([4]byte(f[arpSender:arpEnd]))
	if from.IsUnspecified() {
		from = netip.AddrFrom4([4]byte(f[arpTarget:arpFrame]))
	}
	return from, true
}
