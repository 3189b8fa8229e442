// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// swap is a change of all devices at a time.
type swap struct {
	d       *Datapath
	ingress []replacement // and XDP
	egress  []replacement
	filters []filterSwap
}

type replacement struct {
	link    link.Link
	program *ebpf.Program
	path    string
}

type filterSwap struct {
	dev             netlink.Link
	ingress, egress string
}

// Swap puts the programs into everything that is attached to devices of these roles, by ifindex, in as
// short a time as possible: until then the devices have programs that use other tables of flows. It calls
// `last` when nothing but the exchange itself is left to do. `last` may convert flows, and do nothing else
// here. All programs have to be loaded: Load does so where there are such tables.
//
// Ingress comes first: an old program rewrites the answers of a flow that an old program opens.
func (d *Datapath) Swap(roles map[int]Role, last func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := swap{d: d}
	defer s.close()
	var errs []error
	for ifindex, role := range roles {
		dev, err := device(ifindex)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err == nil {
			err = s.prepare(dev, role)
		}
		errs = append(errs, err)
	}
	errs = append(errs, last(), update(s.ingress), update(s.egress))
	for _, f := range s.filters {
		errs = append(errs, explain(f.dev, "tc", d.attachFilters(f.dev, f.ingress, f.egress)))
	}
	return errors.Join(errs...)
}

func update(all []replacement) error {
	var errs []error
	for _, r := range all {
		if err := r.link.Update(r.program); err != nil && !errors.Is(err, unix.ENOLINK) {
			errs = append(errs, fmt.Errorf("replace the program of %s: %w", r.path, err))
		}
	}
	return errors.Join(errs...)
}

// prepare finds the attachments of a device.
func (s *swap) prepare(dev netlink.Link, role Role) error {
	ingress, egress, err := role.programs()
	if err != nil {
		return err
	}
	for _, place := range []struct {
		hook    hook
		program string
		in      *[]replacement
	}{
		{hookTCXIngress, ingress, &s.ingress}, {hookXDP, xdpProgram, &s.ingress}, {hookTCXEgress, egress, &s.egress},
	} {
		l, path, err := s.d.pins.attachedLink(place.hook, dev)
		if err != nil {
			return err
		}
		if l != nil {
			*place.in = append(*place.in, replacement{l, s.d.Program(place.program), path})
		}
	}
	filters, err := ourFilters(dev, s.d.pins)
	if len(filters) > 0 {
		s.filters = append(s.filters, filterSwap{dev, ingress, egress})
	}
	return err
}

func (s *swap) close() {
	for _, r := range append(s.ingress, s.egress...) {
		r.link.Close()
	}
}

// attachedLink opens the link of a hook that is pinned and attached to this very device. It returns nil if
// there is none.
func (p pinDir) attachedLink(h hook, dev netlink.Link) (l link.Link, path string, err error) {
	path = p.linkPin(h.pin(dev.Attrs()).pin)
	l, err = link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, path, nil
	}
	if err != nil {
		return nil, path, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	target, err := inspect(l)
	if err != nil || target.ifindex != dev.Attrs().Index || !target.attachedTo(h, dev) {
		return nil, path, errors.Join(err, l.Close())
	}
	return l, path, nil
}
