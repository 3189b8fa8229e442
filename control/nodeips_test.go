// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

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
		if got := nodeIPs(nodeWith(addresses)); !slices.Equal(got, addrs(want)) {
			t.Errorf("%s: got %v, want %s", addresses, got, want)
		}
	}
	if got := nodeIPs(nil); got != nil {
		t.Errorf("no node: got %v", got)
	}
}

// TestNodeAddressesChange, of contract 33: the agent follows its Node's addresses while it runs. For
// as long as the Node has none the last stay in force.
func TestNodeAddressesChange(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	before := nodeWith("internal:127.0.0.1")
	f.begin(before)
	for _, step := range []struct{ addresses, want string }{
		{"internal:127.0.0.1", "127.0.0.1"},
		{"name:node-a", "127.0.0.1"},
		{"internal:127.0.0.2 internal:127.0.0.3", "127.0.0.2"},
		{"external:127.0.0.3", "127.0.0.3"},
		{"", "127.0.0.3"},
		{"internal:127.0.0.1 internal:::1", "127.0.0.1 ::1"},
	} {
		after := nodeWith(step.addresses)
		f.sink.OnNode(before, after)
		before = after
		f.devices.mu.Lock()
		devices := f.devices.nodeIPs
		f.devices.mu.Unlock()
		f.checks.mu.Lock()
		checks := f.checks.nodeIPs
		f.checks.mu.Unlock()
		if want := addrs(step.want); !slices.Equal(devices, want) || !slices.Equal(checks, want) {
			t.Errorf("%q: devices have %v, health checks %v, want %v", step.addresses, devices, checks, want)
		}
	}
	select {
	case err := <-f.ended:
		f.ended <- err
		t.Fatalf("the agent has ended: %v", err)
	default:
	}
}
