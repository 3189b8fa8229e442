// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Expire walks one family's established flows, deletes the dead, and counts both. It takes time in
// proportion to the table.
func (d *Datapath) Expire(ipv6 bool) (bpf.Census, error) {
	return d.walk("waggle_expire", ipv6)
}

// walk runs one family's program of a walk over the flows.
func (d *Datapath) walk(program string, ipv6 bool) (bpf.Census, error) {
	name := program + "4"
	if ipv6 {
		name = program + "6"
	}
	var census bpf.Census
	if _, err := d.Program(name).Run(&ebpf.RunOptions{Context: census, ContextOut: &census}); err != nil {
		return census, fmt.Errorf("%s: %w", name, err)
	}
	return census, nil
}
