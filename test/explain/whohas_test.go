// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/maps"
)

// announced opens the agent's maps.
func (s *setup) announced(t *testing.T) *maps.Announced {
	t.Helper()
	table, done, err := s.agent.Announced()
	check(t, err)
	t.Cleanup(done)
	return table
}

// announce has node-1 announce addresses on eth0, for as long as the test takes.
func announce(t *testing.T, s *setup) []string {
	t.Helper()
	eth0, err := s.node.Link("eth0")
	check(t, err)
	table := s.announced(t)
	for _, a := range []string{"192.168.1.240", "fd00:192:168:1::240"} {
		check(t, table.Set(maps.Place{Addr: netip.MustParseAddr(a), Ifindex: eth0.Attrs().Index}, eth0.Attrs().HardwareAddr))
	}
	check(t, table.Extend(maps.Monotonic()+time.Hour))
	return nil
}

// lapse ends that, with an agent that is stopped and so does not extend it.
func lapse(t *testing.T, s *setup) []string {
	t.Helper()
	check(t, unix.Kill(s.agent.Pid(), unix.SIGSTOP))
	t.Cleanup(func() { check(t, unix.Kill(s.agent.Pid(), unix.SIGCONT)) })
	announce(t, s)
	check(t, s.announced(t).Extend(maps.Monotonic()-time.Second))
	return nil
}

// captureARP writes a file of questions: a probe, one that a host asks again, and one for another host's MAC.
func captureARP(t *testing.T, s *setup) []string {
	t.Helper()
	announce(t, s)
	mac, err := s.node.MAC("eth0")
	check(t, err)
	from := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	frame := func(to net.HardwareAddr, sender net.IP) []byte {
		return serialize(t, &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{AddrType: 1, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
				SourceHwAddress: from, SourceProtAddress: sender, DstHwAddress: make([]byte, 6), DstProtAddress: net.IP{192, 168, 1, 240}})
	}
	client := net.IP{192, 168, 1, 10}
	file := filepath.Join(t.TempDir(), "file.pcap")
	writeCapture(t, file, layers.LinkTypeEthernet,
		frame(layers.EthernetBroadcast, net.IP{0, 0, 0, 0}), frame(mac, client), frame(net.HardwareAddr{2, 0, 0, 0, 0, 8}, client))
	return []string{"--pcap", file}
}
