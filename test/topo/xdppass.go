// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// AttachXDPPass attaches a native XDP program that passes everything. A veth
// transmits what XDP at its peer sends (XDP_TX) only with a program of its own;
// without one, the frames are silently lost. Close detaches it, and so does the
// removal of the device.
func (n *Network) AttachXDPPass(h *Host, ifname string) error {
	program, err := n.xdpPass()
	if err != nil {
		return err
	}
	device, err := h.Link(ifname)
	if err != nil {
		return err
	}
	var attached link.Link
	// The kernel looks the device up in the caller's network namespace.
	err = h.Do(func() (err error) {
		attached, err = link.AttachXDP(link.XDPOptions{
			Program:   program,
			Interface: device.Attrs().Index,
			Flags:     link.XDPDriverMode,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: XDP on %s: %w", h.Name, ifname, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = append(n.held, attached)
	return nil
}

func (n *Network) xdpPass() (*ebpf.Program, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pass != nil {
		return n.pass, nil
	}
	const xdpPass = 2
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "topo_pass",
		Type:         ebpf.XDP,
		License:      "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("XDP pass program: %w", err)
	}
	n.pass = program
	n.held = append(n.held, program)
	return program, nil
}
