// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Role is a device's role in the datapath. It decides which programs the device runs.
type Role int

const (
	// External devices lead out of the node. Ingress rewrites packets that arrive, egress rewrites sources.
	External Role = iota
	// ExternalL3 devices lead out as well, and have no link layer: tun, wireguard, ipip.
	ExternalL3
	// Pod is the node's side of a pod's device: its clients are inside the cluster.
	Pod
)

func (r Role) String() string {
	switch r {
	case External:
		return "external"
	case ExternalL3:
		return "external-l3"
	case Pod:
		return "pod"
	}
	return fmt.Sprintf("role %d", int(r))
}

// programs returns the names of the programs at ingress and at egress.
func (r Role) programs() (ingress, egress string, err error) {
	switch r {
	case External:
		return "waggle_ingress", "waggle_egress", nil
	case ExternalL3:
		return "waggle_ingress_l3", "waggle_egress_l3", nil
	case Pod:
		return podProgram, "waggle_egress", nil
	}
	return "", "", fmt.Errorf("there is no %v", r)
}

// AttachTC attaches the programs of a role, both or none. A second call replaces them in place, also by those
// of another role.
//
// Our programs run first, in both directions. A verdict such as TC_ACT_OK ends the chain: behind a program
// that returns one, our program would not see the packet, and a source that egress does not rewrite breaks the
// connection. A program that goes before ours later stays there until the next process attaches ours;
// Neighbours finds it. Our programs let the next one run, except for packets that they transmit or drop. So
// another program sees packets as netfilter's hooks in the node do at ingress (destination rewritten), and as
// the wire does at egress (source rewritten).
//
// The first device of a role may need programs that are not loaded yet. If the kernel refuses them, the device
// stays as it is, and the error names them.
//
// A device that another waggle serves is refused with ErrServed.
func (d *Datapath) AttachTC(ifindex int, role Role) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := device(ifindex)
	if err != nil {
		return err
	}
	ingress, egress, err := role.programs()
	if err != nil {
		return err
	}
	if err := d.links.checkOthers(dev); err != nil {
		return err
	}
	if err := d.need(ingress, egress); err != nil {
		return explain(dev, "tc", err)
	}
	if !d.clsact {
		err = d.attachTCX(dev, d.Program(ingress), d.Program(egress))
		if err == nil {
			err = d.removeOldFilters(dev)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return explain(dev, "tc", err)
		}
		d.clsact = true
		d.log.Info("the kernel has no TCX (Linux 6.6): attaching tc programs as clsact filters")
	}
	if err := d.attachFilters(dev, ingress, egress); err != nil {
		return explain(dev, "tc", err)
	}
	return errors.Join(d.detach(hookTCXIngress, ifindex), d.detach(hookTCXEgress, ifindex))
}
