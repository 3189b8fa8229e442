// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
)

// TestAssigned, of contract 52: cluster IPs that kube-proxy in IPVS mode has left on its device are
// still served.
func TestAssigned(t *testing.T) {
	device := func(name, list string) *deviceFacts {
		return &deviceFacts{link: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}, addrs: addrs(list)}
	}
	got := assigned([]*deviceFacts{
		device("eth0", "10.0.0.1 fd00::1"), device("nodelocaldns", "10.96.0.10"), device("kube-ipvs0", "10.96.0.1 10.96.0.10 10.96.0.11"),
	})
	want := map[netip.Addr]bool{}
	for _, a := range addrs("10.0.0.1 fd00::1 10.96.0.10") {
		want[a] = true
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
