// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

var (
	hookTCXIngress = hook{"tcx-ingress", ebpf.AttachTCXIngress}
	hookTCXEgress  = hook{"tcx-egress", ebpf.AttachTCXEgress}

	deviceHooks = []hook{hookXDP, hookTCXIngress, hookTCXEgress}
)

// attachTCX begins with egress. Alone it acts on no packet, because ingress makes the records.
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

// attachTCXHook puts our program first, also where an earlier process attached it and others have
// gone before it since.
func (d *Datapath) attachTCXHook(h hook, dev netlink.Link, program *ebpf.Program) (isNew bool, err error) {
	create := func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{
			Interface: dev.Attrs().Index,
			Program:   program,
			Attach:    h.attach,
			Anchor:    link.Head(),
		})
	}
	first, err := d.goFirst(h, dev, program, create)
	if first || err != nil {
		return false, err
	}
	return d.attach(h, dev, program, create)
}

// goFirst replaces the link that an earlier process pinned by one at the head of the hook, if it is
// behind others. For a moment both links run: the second finds nothing to do on packets that the
// first has rewritten. If the link has this very program already, it stays where it is: no hook
// takes a program twice.
func (d *Datapath) goFirst(h hook, dev netlink.Link, program *ebpf.Program, create func() (link.Link, error)) (bool, error) {
	pin := h.pin(dev.Attrs())
	old, err := link.LoadPinnedLink(d.links.path(pin), nil)
	if err != nil {
		return false, nil // there is no link, or update reports the error
	}
	defer old.Close()
	behind, err := isBehind(old, h, dev, program)
	if !behind || err != nil {
		return false, err
	}
	first, err := create()
	if err != nil {
		return false, err
	}
	defer first.Close()
	if err := d.links.put(first, pin); err != nil {
		return false, err
	}
	name, _ := h.describe()
	d.log.Infof("%s %s: others ran before waggle's program, which goes first again", dev.Attrs().Name, name)
	return true, old.Detach()
}

// isBehind reports whether others run before a link's program, if that is not the given one.
func isBehind(l link.Link, h hook, dev netlink.Link, program *ebpf.Program) (bool, error) {
	target, err := inspect(l)
	if err != nil || target.ifindex != dev.Attrs().Index || !target.attachedTo(h, dev) {
		return false, err
	}
	running, err := tcPrograms(dev, h, false)
	if err != nil {
		return false, err
	}
	before, _ := cutAtOurs(running, programNames{target.program: ""})
	if len(before) == 0 {
		return false, nil
	}
	id, err := kernelID(program)
	return id != target.program, err
}

// RunsByTCX reports whether a device of this network namespace runs a program at "tc-ingress" or "tc-egress", by that
// very link. It returns unix.ENODEV if there is no such device.
func RunsByTCX(ifindex int, hook string, program ebpf.ProgramID, id link.ID) (bool, error) {
	at := hookTCXIngress
	if name, _ := hookTCXEgress.describe(); name == hook {
		at = hookTCXEgress
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at.attach})
	if err != nil {
		return false, fmt.Errorf("%s of device %d: %w", hook, ifindex, err)
	}
	return target{link: id, program: program}.isAmong(result), nil
}
