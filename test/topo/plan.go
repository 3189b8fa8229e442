// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
)

const (
	bridgeName = "br0"
	vxlanName  = "vxlan0"
	vxlanID    = 1
	vxlanPort  = 8472
	vxlanMTU   = 1450
	maxNodes   = 8 // the laptop has .10
	laptopHost = 10
	firstPod   = 2
	lastPod    = 254

	firstMachine = 20
	lastMachine  = 99
)

func ethernet4(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, 24) }
func ethernet6(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, 64) }

// onEthernet returns the addresses of a host on the bridge.
func onEthernet(host int) (ip4, ip6 netip.Addr) {
	return netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", host)),
		netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::%d", host))
}

// podAddr returns the addresses of a pod. Number 1 is the node's own end, and 0
// the node's tunnel endpoint.
func podAddr(node, number int) (ip4, ip6 netip.Addr) {
	ip6 = netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", node, number))
	return netip.AddrFrom4([4]byte{10, 244, byte(node), byte(number)}), ip6
}

func podCIDRs(node int) (p4, p6 netip.Prefix) {
	ip4, ip6 := podAddr(node, 0)
	return netip.PrefixFrom(ip4, 24), netip.PrefixFrom(ip6, 64)
}

// vethName shortens a pod's name to the 15 characters of a device name.
func vethName(pod string) string {
	const prefix, limit = "veth-", 15
	if len(prefix)+len(pod) <= limit {
		return prefix + pod
	}
	sum := sha256.Sum256([]byte(pod))
	return prefix + pod[:5] + "-" + hex.EncodeToString(sum[:2])
}
