// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/test/topo"
)

// eni is the address of a node's second network interface, if it has one.
func eni(node *topo.Node) netip.Addr {
	addr := node.IP4.As4()
	addr[3] += 50
	return netip.AddrFrom4(addr)
}

// addENIs gives each node a second interface, and has the Ethernet check sources as a VPC does.
func addENIs(t *testing.T, s *setup) {
	t.Helper()
	for _, node := range s.Nodes {
		// Each interface answers for its own address only.
		check(t, errors.Join(node.Sysctl("net.ipv4.conf.all.arp_ignore", "1"), node.Sysctl("net.ipv4.conf.all.arp_announce", "2")))
		check(t, s.AddUplink(node, "eth1", netip.PrefixFrom(eni(node), 24)))
	}
	check(t, errors.Join(knowENI(s.Nodes[0], s.Nodes[1]), knowENI(s.Nodes[1], s.Nodes[0])))
	check(t, load(s.Link, nil, "nft", "-f", filepath.Join("rules", "vpc.nft")))
}

// knowENI gives a node the address of the other one's second interface. A VPC answers that itself:
// the interface's own node would not, as it answers the sender by its first one.
func knowENI(node, peer *topo.Node) error {
	mac, err := peer.MAC("eth1")
	if err != nil {
		return err
	}
	for _, device := range []string{"eth0", "eth1"} {
		link, err := node.Link(device)
		if err != nil {
			return err
		}
		known := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: eni(peer).AsSlice(), HardwareAddr: mac}
		if err := node.Netlink().NeighSet(known); err != nil {
			return fmt.Errorf("%s: neighbour %s on %s: %w", node.Name, eni(peer), device, err)
		}
	}
	return nil
}
