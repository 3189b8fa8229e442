// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// answeredBy waits until a node answers for an address with the MAC that its device has now.
func (s *setup) answeredBy(t *testing.T, agent *cluster.Agent, addr netip.Addr) {
	t.Helper()
	began := time.Now()
	await.Until(t, func() (string, bool) {
		link, err := agent.Node.Link("eth0")
		check(t, err)
		table, done, err := agent.Announced()
		check(t, err)
		defer done()
		all, err := table.All()
		check(t, err)
		at := all[maps.Place{Addr: addr, Ifindex: link.Attrs().Index}]
		return "the map has " + net.HardwareAddr(at.MAC).String() + " and the device " + link.Attrs().HardwareAddr.String(),
			net.HardwareAddr(at.MAC).String() == link.Attrs().HardwareAddr.String()
	})
	t.Logf("%s: the MAC of the device is answered after %v", addr, time.Since(began).Round(time.Millisecond))
}

// serves waits until a client of the laptop is served.
func (s *setup) serves(t *testing.T, when string, addr netip.Addr) {
	t.Helper()
	client, err := s.Laptop.Client()
	check(t, err)
	defer func() { check(t, client.Close()) }()
	began := time.Now()
	await.Until(t, func() (string, bool) {
		reply := client.Get(topo.Request{To: netip.AddrPortFrom(addr, 80), Timeout: time.Second})
		return when + ": " + reply.String(), reply.OK()
	})
	t.Logf("%s: %s is served after %v", when, addr, time.Since(began).Round(time.Millisecond))
}

// TestUplink: the device of the holder gets another MAC, flaps, is removed and made again.
func TestUplink(t *testing.T) {
	onlyWithFaults(t)
	s := newSetup(t, 2, false)
	for i, name := range []string{"web-0", "web-1"} {
		s.addPod(t, i, name)
	}
	s.addService(t, "web")
	start(t, s.agents...)
	addrs := s.addresses(t, s.agents[0], "web")
	addr := addrs[0]
	at := s.awaitHolder(t, addr, s.agents)
	s.serves(t, "at first", addr)
	agent, others := s.others(at)

	link, err := agent.Node.Link("eth0")
	check(t, err)
	check(t, agent.Node.Netlink().LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 0x77}))
	s.answeredBy(t, agent, addr)
	s.serves(t, "another MAC", addr)

	prober(t, s.Laptop, addr)
	for range 20 {
		s.setLink(t, at, false)
		time.Sleep(300 * time.Millisecond)
		s.setLink(t, at, true)
		time.Sleep(300 * time.Millisecond)
	}
	s.awaitHolder(t, addr, s.agents)
	s.serves(t, "flapped", addr)
	if n := s.recorder.doubles(); n > 0 {
		t.Errorf("%d requests were answered by two nodes while the link flapped\n%s", n, s.transitions(addr, time.Time{}))
	}

	check(t, agent.Node.DelLink("eth0"))
	s.awaitHolder(t, addr, others, at)
	s.serves(t, "removed", addr)
	check(t, s.AddUplink(agent.Node, "eth0", netip.PrefixFrom(agent.Node.IP4, 24), netip.PrefixFrom(agent.Node.IP6, 64)))
	s.awaitHolder(t, addr, s.agents, others[0].Node.Name)
	s.answeredBy(t, agent, addr)
	s.serves(t, "made again", addr)
}
