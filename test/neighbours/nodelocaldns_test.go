// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/test/topo"
)

// dnsPaths are the ways to the DNS service, which the cache on the client's own node answers.
var dnsPaths = []path{
	{name: "the node's DNS cache by socket", client: sockets, backends: []string{dns}, request: clusterIP, server: "node-1"},
	{name: "the node's DNS cache by packet", client: packets, backends: []string{dns}, request: clusterIP, server: "node-1"},
	{name: "the node's DNS cache from the node", client: "node-1", backends: []string{dns}, request: clusterIP, server: "node-1"},
}

// startDNSCache has each node listen where NodeLocal DNSCache does: at a link-local address and at the
// cluster IP, which a device of its own holds. A bridge without ports does as well as a dummy device.
func startDNSCache(t *testing.T, s *setup) {
	t.Helper()
	const device = "nodelocaldns"
	for _, node := range s.Nodes {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = device
		check(t, node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		var errs []error
		for _, addr := range []netip.Addr{
			netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd00:169:254::20:10"),
			services[dns].clusterIP(false).Addr(), services[dns].clusterIP(true).Addr(),
		} {
			errs = append(errs, node.AddAddr(device, topo.Single(addr)))
		}
		check(t, errors.Join(append(errs, node.SetUp(device))...))
		_, err := node.Serve(topo.Ports{Echo: []uint16{servicePort}, UDP: []uint16{servicePort}})
		check(t, err)
	}
}
