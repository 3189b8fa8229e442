// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/waggle-lb/waggle/test/topo"
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// capture writes a file of frames that no flag of the command describes.
func capture(t *testing.T, s *setup) []string {
	t.Helper()
	_, reply := s.laptop.OpenTCP(topo.Request{To: at(s.node.IP4, 30001)})
	check(t, reply.Error())
	mac, err := s.node.MAC("eth0")
	check(t, err)
	to := layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4}
	elsewhere, tagged, arp := to, to, to
	elsewhere.DstMAC = net.HardwareAddr{2, 0, 0, 0, 0, 8}
	tagged.EthernetType, arp.EthernetType = layers.EthernetTypeDot1Q, layers.EthernetTypeARP
	ip := layers.IPv4{Version: 4, IHL: 5, TTL: 64, Id: 77, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{192, 168, 1, 10}, DstIP: net.IP{10, 96, 0, 12}}
	first, later := ip, ip
	first.Flags, later.FragOffset = layers.IPv4MoreFragments, 185
	udp := &layers.UDP{SrcPort: 4000, DstPort: 53}
	file := filepath.Join(t.TempDir(), "file.pcap")
	writeCapture(t, file, layers.LinkTypeEthernet,
		serialize(t, &arp, &layers.ARP{AddrType: 1, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: to.SrcMAC, SourceProtAddress: ip.SrcIP, DstHwAddress: make([]byte, 6), DstProtAddress: net.IP{192, 168, 1, 2}}),
		serialize(t, &tagged, &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, &ip, udp),
		serialize(t, &elsewhere, &ip, udp),
		serialize(t, &to, &first, udp, gopacket.Payload(make([]byte, 1472))),
		serialize(t, &to, &later, gopacket.Payload(make([]byte, 100))),
		serialize(t, &to, &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: 47, SrcIP: ip.SrcIP, DstIP: ip.DstIP}, gopacket.Payload(make([]byte, 40))),
		s.errorAbout(t, &to, reply.Local),
	)
	return []string{"--pcap", file}
}

// errorAbout is the ICMP error that node-2 would send about a packet of a client's flow to the service `remote`.
func (s *setup) errorAbout(t *testing.T, to *layers.Ethernet, client netip.AddrPort) []byte {
	t.Helper()
	out, err := s.agent.CLI("flow", "list", "--address", client.Addr().String(), "-o", "json")
	check(t, err)
	var flows []struct{ Source, ToSource, ToDestination netip.AddrPort }
	check(t, json.Unmarshal([]byte(out), &flows))
	for _, f := range flows {
		if f.Source != client {
			continue
		}
		quoted := serialize(t,
			&layers.IPv4{Version: 4, IHL: 5, TTL: 63, Protocol: layers.IPProtocolTCP, SrcIP: f.ToSource.Addr().AsSlice(), DstIP: f.ToDestination.Addr().AsSlice()},
			&layers.TCP{SrcPort: layers.TCPPort(f.ToSource.Port()), DstPort: layers.TCPPort(f.ToDestination.Port())})
		return serialize(t, to,
			&layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: net.IP{192, 168, 1, 3}, DstIP: net.IP{192, 168, 1, 2}},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(quoted))
	}
	t.Fatalf("no flow of %s in %s", client, out)
	return nil
}

func serialize(t *testing.T, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, all...))
	return bytes.Clone(b.Bytes())
}

func writeCapture(t *testing.T, path string, kind layers.LinkType, frames ...[]byte) {
	t.Helper()
	file, err := os.Create(path)
	check(t, err)
	w := pcapgo.NewWriter(file)
	err = w.WriteFileHeader(65536, kind)
	for _, f := range frames {
		err = errors.Join(err, w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(0, 0), CaptureLength: len(f), Length: len(f)}, f))
	}
	check(t, errors.Join(err, file.Close()))
}
