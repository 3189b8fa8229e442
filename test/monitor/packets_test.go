// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/waggle-lb/waggle/test/topo"
)

// ends are the source and the destination of a captured TCP packet.
func ends(t *testing.T, frame []byte) (src, dst netip.AddrPort) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, _ := p.NetworkLayer().(*layers.IPv4)
	tcp, _ := p.TransportLayer().(*layers.TCP)
	if ip == nil || tcp == nil {
		t.Fatalf("no TCP packet: %x", frame)
	}
	from, _ := netip.AddrFromSlice(ip.SrcIP)
	to, _ := netip.AddrFromSlice(ip.DstIP)
	return at(from, uint16(tcp.SrcPort)), at(to, uint16(tcp.DstPort))
}

// TestPackets: each packet of a flow is shown at each hook that it meets, as it came and as it left the program.
func TestPackets(t *testing.T) {
	s := newSetup(t)
	t.Run("express", func(t *testing.T) {
		m := s.watch(t, "--packets", "--service", "default/remote", "--verdict", "express")
		reply := s.echo(t, at(s.node.IP4, 30001))
		s.settled(t, 1)
		events, _ := m.end()
		requests, answers := 0, 0
		for _, e := range events {
			if e.Hook != "xdp" || e.OutDevice != "eth0" || e.Length < 54 {
				t.Errorf("%+v", e)
			}
			src, dst := ends(t, e.Before)
			toSrc, toDst := ends(t, e.After)
			switch {
			case src == reply.Local && dst == at(s.node.IP4, 30001) && toSrc == reply.Remote && toDst == at(s.remote.IP4, 8080):
				requests++
			case src == at(s.remote.IP4, 8080) && dst == reply.Remote && toSrc == at(s.node.IP4, 30001) && toDst == reply.Local:
				answers++
			default:
				t.Errorf("%s > %s becomes %s > %s, of %s", src, dst, toSrc, toDst, reply)
			}
			if src != e.Source || dst != e.Destination || toSrc != e.ToSource || toDst != e.ToDestination {
				t.Errorf("%s > %s becomes %s > %s, shown as %+v", src, dst, toSrc, toDst, e)
			}
		}
		if requests < 4 || answers < 3 { // SYN, ACK, data, FIN, and their answers
			t.Errorf("%d requests and %d answers", requests, answers)
		}
	})
	t.Run("stack", func(t *testing.T) {
		m := s.watch(t, "--packets", "--service", "default/local")
		reply := s.echo(t, at(s.node.IP4, 30002))
		s.settled(t, 2)
		events, _ := m.end()
		var ways []string
		for _, e := range events {
			if len(e.Before) == 0 {
				continue // an event of the flow
			}
			src, dst := ends(t, e.Before)
			changed := bytes.Equal(e.Before, e.After) == false && len(e.After) > 0
			switch e.Event {
			case "left-to-tc":
				if changed || src != reply.Local || dst != at(s.node.IP4, 30002) {
					t.Errorf("left-to-tc: %s > %s, changed %t", src, dst, changed)
				}
			case "stack":
				if _, toDst := ends(t, e.After); src != reply.Local || toDst != at(s.local.IP4, 8080) {
					t.Errorf("stack: %s > %s", src, toDst)
				}
			case "source":
				if toSrc, toDst := ends(t, e.After); src != at(s.local.IP4, 8080) || toSrc != at(s.node.IP4, 30002) || toDst != reply.Local {
					t.Errorf("source: %s becomes %s > %s", src, toSrc, toDst)
				}
			default:
				t.Errorf("%+v", e)
			}
			if way := e.Event + "@" + e.Hook; !slices.Contains(ways, way) {
				ways = append(ways, way)
			}
		}
		slices.Sort(ways)
		if got, want := strings.Join(ways, " "), "left-to-tc@xdp source@tc-egress stack@tc-ingress"; got != want {
			t.Errorf("packets are shown as %s, want %s", got, want)
		}
	})
	t.Run("dropped and refused", func(t *testing.T) {
		m := s.watch(t, "--packets", "--verdict", "refused,drop-no-local-endpoint")
		s.laptop.Connect(topo.Request{To: at(s.node.IP4, 30004)})
		s.unanswered(t, at(s.node.IP4, 30005), "drop-no-local-endpoint")
		events, _ := m.end()
		refused, dropped := of(events, "refused"), of(events, "drop-no-local-endpoint")
		if len(refused) == 0 || len(dropped) == 0 {
			t.Fatalf("events: %s", kinds(events))
		}
		if src, _ := ends(t, refused[0].After); src != at(s.node.IP4, 30004) { // the reset that is sent back
			t.Errorf("refused: %+v", refused[0])
		}
		if _, dst := ends(t, dropped[0].Before); dst != at(s.node.IP4, 30005) || len(dropped[0].After) > 0 {
			t.Errorf("dropped: %+v", dropped[0])
		}
	})
	t.Run("long", func(t *testing.T) {
		m := s.watch(t, "--packets", "--verdict", "express")
		check(t, s.laptop.Echo(topo.Request{To: at(s.node.IP4, 30001), Size: 3000}).Error())
		events, _ := m.end()
		longest := slices.MaxFunc(events, func(a, b event) int { return a.Length - b.Length })
		if longest.Length < 1400 || len(longest.Before) != 256 || len(longest.After) != 256 {
			t.Errorf("of %d bytes are %d and %d shown", longest.Length, len(longest.Before), len(longest.After))
		}
		if size := int(longest.Before[16])<<8 + int(longest.Before[17]); size+14 != longest.Length {
			t.Errorf("the header says %d", size)
		}
	})
}

// TestCapture: a file holds each packet, twice if it was rewritten, and comments that say what was decided; and one
// without packets can be read, too.
func TestCapture(t *testing.T) {
	s := newSetup(t)
	file := filepath.Join(t.TempDir(), "file.pcapng")
	m := s.watch(t, "--pcap", file, "--service", "default/local")
	reply := s.echo(t, at(s.node.IP4, 30002))
	s.settled(t, 1)
	events, _ := m.end()
	want := 0
	for _, e := range events {
		want += min(len(e.Before), 1) + min(len(e.After), 1)
	}
	comments, devices := readCapture(t, file)
	if len(comments) != want || want < 10 {
		t.Errorf("%d packets in the file, want %d", len(comments), want)
	}
	for _, one := range []string{
		"waggle: left-to-tc, hook xdp, service default/local:main, backend 10.244.0.2:8080",
		"waggle: stack, hook tc-ingress, service default/local:main, backend 10.244.0.2:8080, before",
		"waggle: stack, hook tc-ingress, service default/local:main, backend 10.244.0.2:8080, after",
	} {
		if !slices.Contains(comments, one) {
			t.Errorf("no packet has the comment %q, of %s: %q", one, reply, comments)
		}
	}
	if !slices.Contains(devices, "eth0") {
		t.Errorf("interfaces: %q", devices)
	}
	empty := filepath.Join(t.TempDir(), "empty.pcapng")
	s.watch(t, "--pcap", empty).end()
	if comments, _ := readCapture(t, empty); len(comments) > 0 {
		t.Errorf("comments of nothing: %q", comments)
	}
}

func readCapture(t *testing.T, path string) (comments, devices []string) {
	t.Helper()
	file, err := os.Open(path)
	check(t, err)
	defer file.Close()
	r, err := pcapgo.NewNgReader(file, pcapgo.DefaultNgReaderOptions)
	check(t, err)
	for {
		_, _, opts, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		comments = append(comments, opts.Comments...)
	}
	for i := range r.NInterfaces() {
		face, err := r.Interface(i)
		check(t, err)
		devices = append(devices, face.Name)
	}
	return comments, devices
}
