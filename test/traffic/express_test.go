// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// adopter is an agent's program that makes records.
func adopter(t *testing.T, dir string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, "programs", "waggle_adopt"), nil)
	check(t, err)
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}

// TestExpressPassesEgress: tc egress does not translate a packet again that tc ingress has sent,
// even if there is a record for it: it does not look.
func TestExpressPassesEgress(t *testing.T) {
	s, c, services := twoServices(t, modes[1])
	streams := openExpress(t, s, c, services[1])
	adopt := adopter(t, s.agents[0].PinDir)
	for name, local := range streams.locals {
		flows, err := s.agents[0].Flows(local)
		check(t, err)
		decoys := 0
		for _, f := range flows {
			if f.Flags&bpf.FlowExpress == 0 {
				continue
			}
			decoy := f
			decoy.Key, decoy.Key.Zone = f.To, bpf.ZoneLeaving
			decoy.To.Src = netip.AddrPortFrom(f.To.Src.Addr().Next(), f.To.Src.Port())
			decoy.Flags = 0
			added, err := adopt.Run(&ebpf.RunOptions{Context: decoy.Adoption()})
			check(t, err)
			if added != 1 {
				t.Fatalf("%s: there is a record for %v at egress", name, decoy.Key)
			}
			decoys++
		}
		if decoys != 2 {
			t.Errorf("%s: %d records take the express path, want 2: %s", name, decoys, fmt.Sprint(flows))
		}
	}
	streams.goOn(t)
}
