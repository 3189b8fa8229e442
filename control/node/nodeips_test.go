// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// nodeWith makes a Node with addresses such as "internal:10.0.0.1".
func nodeWith(addresses string) *v1.Node {
	types := map[string]v1.NodeAddressType{"internal": v1.NodeInternalIP, "external": v1.NodeExternalIP, "name": v1.NodeHostName}
	node := &v1.Node{}
	for _, s := range strings.Fields(addresses) {
		kind, address, _ := strings.Cut(s, ":")
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: types[kind], Address: address})
	}
	return node
}

// The node's addresses are those that kube-proxy takes: of each family the first internal one, else
// the first external one.
func TestNodeIPs(t *testing.T) {
	for addresses, want := range map[string]string{
		"":                                    "",
		"name:node-a internal:bad":            "",
		"internal:10.0.0.1":                   "10.0.0.1",
		"internal:10.0.0.1 internal:10.0.0.2": "10.0.0.1",
		"external:192.0.2.1 name:x internal:10.0.0.1":                                              "10.0.0.1",
		"external:192.0.2.1":                                                                       "192.0.2.1",
		"internal:fd00::1 internal:10.0.0.1":                                                       "fd00::1 10.0.0.1",
		"internal:10.0.0.1 external:2001:db8::1":                                                   "10.0.0.1 2001:db8::1",
		"external:2001:db8::1 external:192.0.2.1":                                                  "2001:db8::1 192.0.2.1",
		"internal:::ffff:10.0.0.2 internal:fd00::1":                                                "10.0.0.2 fd00::1",
		"internal:10.0.0.1 internal:10.0.0.2 internal:fd00::1 internal:fd00::2 external:192.0.2.1": "10.0.0.1 fd00::1",
	} {
		if got := IPs(nodeWith(addresses)); !slices.Equal(got, addrs(want)) {
			t.Errorf("%s: got %v, want %s", addresses, got, want)
		}
	}
	if got := IPs(nil); got != nil {
		t.Errorf("no node: got %v", got)
	}
}
