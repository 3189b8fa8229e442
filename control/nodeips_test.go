// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
)

// TestNodeAddressesChange, of contract 33: the agent follows its Node's addresses, with the NodePorts and
// with the health checks of services. For as long as the Node has none the last stay in force.
func TestNodeAddressesChange(t *testing.T) {
	n := netnstest.New(t)
	for parameter, value := range map[string]string{"disable_ipv6": "0", "accept_dad": "0"} {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/"+parameter, []byte(value), 0))
	}
	must(t, netlink.LinkSetUp(n.Link("lo"))) // where agents listen
	n.AddVeth("eth0", "10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "fd00::1/64")
	f := newAgentFixture(t, &testSource{}, nil) // it doesn't run: all is done on this thread, in the namespace
	t.Cleanup(func() { must(t, f.dp.Close()) })
	const port = 31080
	deliver(f.proxy, serviceObject("web", "10.96.0.1", healthChecked(port), func(s *v1.Service) {
		s.Spec.ClusterIPs, s.Spec.IPFamilies = append(s.Spec.ClusterIPs, "fd00:10:96::1"), []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}))
	f.proxy.OnSynced()
	var before *v1.Node
	for _, step := range []struct{ addresses, want string }{
		{"internal:10.0.0.1", "10.0.0.1"},
		{"name:node-a", "10.0.0.1"},
		{"internal:10.0.0.2 internal:10.0.0.3", "10.0.0.2"},
		{"external:10.0.0.3", "10.0.0.3"},
		{"", "10.0.0.3"},
		{"internal:10.0.0.1 internal:fd00::1", "10.0.0.1 fd00::1"},
	} {
		after := nodeWith(step.addresses)
		f.proxy.OnNode(before, after)
		before = after
		f.proxy.sync()
		all, err := maps.NewNodeAddrs(f.dp).All()
		must(t, err)
		await.Until(t, func() (string, bool) { // servers end some time after they are closed
			var nodePorts, checks []string
			for a, what := range all {
				if what.NodePorts {
					nodePorts = append(nodePorts, a.String())
				}
				l, err := net.Listen("tcp", netip.AddrPortFrom(a, port).String())
				if errors.Is(err, unix.EADDRINUSE) {
					checks = append(checks, a.String())
					continue
				}
				must(t, err)
				must(t, l.Close())
			}
			slices.Sort(nodePorts)
			slices.Sort(checks)
			want := strings.Fields(step.want)
			return fmt.Sprintf("%q: of %d addresses NodePorts answer on %v, health checks on %v, want %v", step.addresses, len(all), nodePorts, checks, want),
				len(all) == 4 && slices.Equal(nodePorts, want) && slices.Equal(checks, want)
		})
	}
}

// nodeWith makes a Node of addresses such as "internal:10.0.0.1".
func nodeWith(addresses string) *v1.Node {
	types := map[string]v1.NodeAddressType{"internal": v1.NodeInternalIP, "external": v1.NodeExternalIP, "name": v1.NodeHostName}
	node := nodeObject(thisNode, "")
	for _, s := range strings.Fields(addresses) {
		kind, address, _ := strings.Cut(s, ":")
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: types[kind], Address: address})
	}
	return node
}
