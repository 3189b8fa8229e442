// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// pinned are an agent's maps of confirmed flows.
type pinned map[string]*ebpf.Map

func (p pinned) Map(name string) *ebpf.Map { return p[name] }

func pinnedFlows(t *testing.T, dir string) pinned {
	t.Helper()
	p := pinned{}
	for _, name := range []string{"flows4", "flows6"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "maps", name), nil)
		check(t, err)
		t.Cleanup(func() { check(t, m.Close()) })
		p[name] = m
	}
	return p
}

// TestExpressPassesEgress: what tc ingress has sent, tc egress does not translate again, although
// here a record says so: it is not looked up.
func TestExpressPassesEgress(t *testing.T) {
	s, c, services := twoServices(t, modes[1])
	streams := openExpress(t, s, c, services[1])
	table := pinnedFlows(t, s.agents[0].PinDir)
	for name, local := range streams.locals {
		flows, err := s.agents[0].Flows(local)
		check(t, err)
		decoys := 0
		for _, f := range flows {
			if f.Flags&bpf.FlowExpress == 0 {
				continue
			}
			decoy := f
			decoy.Key, decoy.Key.Egress = f.To, true
			decoy.To.Src = netip.AddrPortFrom(f.To.Src.Addr().Next(), f.To.Src.Port())
			decoy.Flags = 0
			added, err := maps.AddFlow(table, decoy)
			check(t, err)
			if !added {
				t.Fatalf("%s: there is a record for %v at egress", name, decoy.Key)
			}
			decoys++
		}
		if decoys != 2 {
			t.Errorf("%s: %d halves take the express path, want 2: %s", name, decoys, fmt.Sprint(flows))
		}
	}
	streams.goOn(t)
}
