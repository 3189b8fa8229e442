// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
)

// TestOneDeviceFails: an address is announced on several devices, and can't be on one of them. One node answers all the
// same, and only one, and says what is wrong, until that is over.
func TestOneDeviceFails(t *testing.T) {
	s := newSetup(t, 2, false)
	s.addPod(t, 0, "web")
	setMTU := func(mtu int) { // with less than 1280 bytes a device has no IPv6
		for _, node := range s.Nodes {
			link, err := node.Link("eth1")
			check(t, err)
			check(t, node.Netlink().LinkSetMTU(link, mtu))
		}
	}
	for i, node := range s.Nodes {
		check(t, s.AddUplink(node, "eth1", netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 2)}), 24)))
	}
	setMTU(1200)
	check(t, s.manifests.Write("lan.yaml", lan+"spec: {interfaces: [eth0, eth1]}\n"))
	s.addService(t, "web")
	start(t, s.agents...)
	addr := s.addresses(t, s.agents[0], "web")[1]
	if addr.Is4() {
		t.Fatalf("%s is not of IPv6", addr)
	}
	prober(t, s.Laptop, addr)
	at := s.awaitHolder(t, addr, s.agents)
	time.Sleep(6 * time.Second) // for longer than a node waits that could not hold an address
	s.expectSettled(t, addr, at)
	s.neverTwo(t)
	agent, _ := s.others(at)
	warned := func(st *status.Status) bool {
		return strings.Contains(fmt.Sprint(st.Warnings), "announcing "+addr.String())
	}
	check(t, agent.Await("a warning of the address", warned))
	setMTU(1500)
	check(t, agent.Await("no warning any more", func(st *status.Status) bool { return !warned(st) }))
}
