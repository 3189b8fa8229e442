// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

var (
	hookTCXIngress = hook{"tcx-ingress", ebpf.AttachTCXIngress}
	hookTCXEgress  = hook{"tcx-egress", ebpf.AttachTCXEgress}

	deviceHooks = []hook{hookXDP, hookTCXIngress, hookTCXEgress}
)

// attachTCX begins with egress: alone, it acts on no packet, because ingress makes the records.
func (d *Datapath) attachTCX(dev netlink.Link, ingress, egress *ebpf.Program) error {
	isNew, err := d.attachTCXHook(hookTCXEgress, dev, egress)
	if err != nil {
		return err
	}
	if _, err = d.attachTCXHook(hookTCXIngress, dev, ingress); err != nil && isNew {
		err = errors.Join(err, d.detach(hookTCXEgress, dev.Attrs().Index))
	}
	return err
}

func (d *Datapath) attachTCXHook(h hook, dev netlink.Link, program *ebpf.Program) (isNew bool, err error) {
	return d.attach(h, dev, program, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{
			Interface: dev.Attrs().Index,
			Program:   program,
			Attach:    h.attach,
			Anchor:    link.Head(),
		})
	})
}
