// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// least is how many rows there must be in each of kube-proxy's packages. Fewer mean that they are not
// found any more, not that they are gone.
const least = 200

// tally counts the rows of one of kube-proxy's packages.
type tally struct {
	objectless, agreed int
	differing          map[int]int // by row of the contract
	wrong              int
}

func (c *tally) replayed() int {
	n := c.agreed + c.wrong
	for _, rows := range c.differing {
		n += rows
	}
	return n
}

// TestKubeProxysRows replays the rows of kube-proxy's unit tests.
//
// Contract: 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 29.
func TestKubeProxysRows(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading programs and making network namespaces needs root")
	}
	cases, err := record(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, cases)
	tallies, excused := map[string]*tally{}, map[string]bool{}
	for _, pkg := range proxiers {
		tallies[pkg] = &tally{differing: map[int]int{}}
	}
	for _, c := range cases {
		counts := tallies[c.Package]
		if !c.Objects {
			counts.objectless += len(c.Rows)
			continue
		}
		n.become(c)
		for _, r := range c.Rows {
			n.check(c, r, counts, excused)
		}
	}
	for _, pkg := range proxiers {
		counts := tallies[pkg]
		t.Logf("%s: %d rows replayed: %d agree, %d are wrong, and by rows of the contract differ %v; %d more have no objects",
			pkg, counts.replayed(), counts.agreed, counts.wrong, counts.differing, counts.objectless)
		if counts.replayed() < least {
			t.Errorf("%s: %d rows were replayed, want %d at least", pkg, counts.replayed(), least)
		}
	}
	for _, row := range unused(excused) {
		t.Errorf("an exception is for %q: there is no such row any more", row)
	}
}

// newNode makes a node with all addresses that kube-proxy's tests give it. Cases are put into the
// order in which the fewest datapaths are loaded.
func newNode(t *testing.T, cases []recordedCase) *node {
	t.Helper()
	n := &node{t: t, cgroup: enterCgroup(t)}
	slices.SortStableFunc(cases, func(a, b recordedCase) int {
		switch {
		case a.MasqueradeAll == b.MasqueradeAll:
			return 0
		case a.MasqueradeAll:
			return 1
		}
		return -1
	})
	var nodeIPs []netip.Addr
	for _, c := range cases {
		for _, text := range c.NodeIPs {
			if ip := netip.MustParseAddr(text); !slices.Contains(nodeIPs, ip) {
				nodeIPs = append(nodeIPs, ip)
			}
		}
	}
	var err error
	n.network, err = newNetwork(nodeIPs)
	n.must(err)
	t.Cleanup(func() {
		n.unload()
		n.others.Close()
	})
	return n
}

// check replays a row, and compares.
func (n *node) check(c recordedCase, r recordedRow, counts *tally, excused map[string]bool) {
	n.t.Helper()
	name := rowName(c, r)
	e, by := excuse(name)
	excused[by] = true
	o, err := n.replay(c, r)
	got := o.differences(c, r)
	switch {
	case err == nil && e == nil && got == "":
		counts.agreed++
		return
	case err == nil && e != nil && got == e.how:
		counts.differing[e.contract]++
		return
	}
	counts.wrong++
	packet := fmt.Sprintf("%s: from %s to %s port %d", name, r.SourceIP, r.DestIP, r.DestPort)
	switch {
	case err != nil:
		n.t.Errorf("%s: %v", packet, err)
	case e != nil:
		n.t.Errorf("%s: the exception for it is %q; it is %q", packet, e.how, got)
	default:
		n.t.Errorf("%s: %s", packet, got)
	}
}
