// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/test/topo"
)

// tagPriority makes all frames that a host sends carry a tag of VLAN 0 (IEEE 802.1Q, 6.9).
func tagPriority(t *testing.T, h *topo.Host, ifname string) {
	t.Helper()
	const tag8021Q, priority = 0x8100, 5 << 13
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, tag8021Q), asm.HostTo(asm.BE, asm.R2, asm.Half),
			asm.Mov.Imm(asm.R3, priority),
			asm.FnSkbVlanPush.Call(),
			asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
			asm.Return(),
		},
	})
	check(t, err)
	t.Cleanup(func() { check(t, program.Close()) })
	device, err := h.Link(ifname)
	check(t, err)
	check(t, h.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: device.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			t.Cleanup(func() { check(t, l.Close()) })
		}
		return err
	}))
}

// TestPriorityTag, of contract 54: frames with a priority tag are served like those without.
func TestPriorityTag(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			s := newSetup(t, topo.Routed, m)
			services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
			for node, svc := range services {
				s.addService(t, svc)
				s.addPod(t, node, svc.name, "app: "+svc.name)
			}
			c := s.addClients(t)
			s.startAgents(t)
			s.awaitServices(t, len(services)*portsOfService)
			tagPriority(t, s.Laptop, "eth0")
			wire, err := s.Nodes[0].Capture("eth0")
			check(t, err)
			connectAll(t, services, s.ways(c))
			frames, err := wire.Stop()
			check(t, err)
			if !slices.ContainsFunc(frames, func(f topo.Frame) bool { return f.Tagged }) {
				t.Error("no frame had a tag")
			}
		})
	}
}
