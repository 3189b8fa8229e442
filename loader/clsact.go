// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// Filters have no pins. A filter is recognised by its name, which contains its pin directory. It is
// replaced in place, by the same priority (the first there is) and handle. Of filters with one
// priority the newest runs first, so to go before others a new filter takes the other handle.
const (
	filterPriority    = 1
	filterHandle      = 0x77616767
	otherFilterHandle = filterHandle + 1
)

// filterName is "<program>:<pin directory>".
func (p pinDir) filterName(program string) string { return program + ":" + string(p) }

// mayHaveFilters reports whether a device may have filters of ours. Where TCX serves, it need not look
// at most devices: an earlier run without TCX can have left filters only on devices that existed then.
func (d *Datapath) mayHaveFilters(ifindex int) (bool, error) {
	if d.clsact || d.leftClsact[ifindex] {
		return true, nil
	}
	if d.leftClsact != nil {
		return false, nil
	}
	qdiscs, err := netdump.Whole(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return false, fmt.Errorf("list qdiscs: %w", err)
	}
	d.leftClsact = map[int]bool{}
	for _, qdisc := range qdiscs {
		if qdisc.Type() == "clsact" {
			d.leftClsact[qdisc.Attrs().LinkIndex] = true
		}
	}
	return d.leftClsact[ifindex], nil
}

// removeOldFilters removes the filters of an earlier run that had no TCX.
func (d *Datapath) removeOldFilters(dev netlink.Link) error {
	if may, err := d.mayHaveFilters(dev.Attrs().Index); !may || err != nil {
		return err
	}
	_, err := removeFilters(dev, d.pins)
	return err
}

func (p pinDir) filterProgram(filter *netlink.BpfFilter) (program string, ours bool) {
	return strings.CutSuffix(filter.Name, ":"+string(p))
}

var filterParents = map[uint32]string{
	netlink.HANDLE_MIN_INGRESS: "tc-ingress",
	netlink.HANDLE_MIN_EGRESS:  "tc-egress",
}

// attachFilters begins with egress, as attachTCX does.
func (d *Datapath) attachFilters(dev netlink.Link, ingress, egress string) error {
	before, err := ourFilters(dev, d.pins)
	if err != nil {
		return err
	}
	made, err := ensureClsact(dev)
	if err != nil {
		return err
	}
	err = d.replaceFilter(dev, netlink.HANDLE_MIN_EGRESS, egress)
	if err == nil {
		err = d.replaceFilter(dev, netlink.HANDLE_MIN_INGRESS, ingress)
	}
	if err != nil && len(before) == 0 {
		_, undo := removeFilters(dev, d.pins)
		if made { // a qdisc that was there before may be empty, but is not ours to remove
			netlink.QdiscDel(clsactOf(dev))
		}
		err = errors.Join(err, undo)
	}
	return err
}

// replaceFilter replaces our filter if there is one, else adds one before all others.
func (d *Datapath) replaceFilter(dev netlink.Link, parent uint32, program string) error {
	ours, behind, err := d.currentFilters(dev, parent)
	if err != nil {
		return err
	}
	handle := uint32(filterHandle)
	if len(ours) > 0 && (ours[0].Handle == handle) == behind {
		handle = otherFilterHandle
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: dev.Attrs().Index,
			Parent:    parent,
			Handle:    handle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  filterPriority,
		},
		Fd:           d.Program(program).FD(),
		Name:         d.pins.filterName(program),
		DirectAction: true,
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("add a %s filter of priority %d, which another kind of filter may have "+
			"(see: tc filter show dev %s): %w", filterParents[parent], filterPriority, dev.Attrs().Name, err)
	}
	if err != nil {
		return fmt.Errorf("add a %s filter: %w", filterParents[parent], err)
	}
	if behind {
		d.log.Infof("%s %s: others ran before waggle's filter, which goes first again", dev.Attrs().Name, filterParents[parent])
	}
	for _, old := range ours {
		if old.Handle == handle {
			continue
		}
		if err := netlink.FilterDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the old %s filter: %w", filterParents[parent], err)
		}
	}
	return nil
}

// currentFilters finds our filters at a hook, and reports whether others run before the first of them.
func (d *Datapath) currentFilters(dev netlink.Link, parent uint32) (ours []*netlink.BpfFilter, behind bool, err error) {
	filters, err := firstFilters(dev, parent)
	for i, filter := range filters {
		if _, is := d.pins.filterProgram(filter); is {
			behind = behind || len(ours) == 0 && i > 0
			ours = append(ours, filter)
		}
	}
	return ours, behind, err
}

func clsactOf(dev netlink.Link) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: dev.Attrs().Index,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
}

// ingressQdisc returns the type of the qdisc at the place of clsact, "" if there is none.
func ingressQdisc(dev netlink.Link) (string, error) {
	qdiscs, err := netdump.Whole(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(dev) })
	if err != nil {
		return "", fmt.Errorf("list qdiscs: %w", err)
	}
	for _, qdisc := range qdiscs {
		if qdisc.Attrs().Parent == netlink.HANDLE_CLSACT {
			return qdisc.Type(), nil
		}
	}
	return "", nil
}

func ensureClsact(dev netlink.Link) (made bool, err error) {
	typ, err := ingressQdisc(dev)
	if err != nil || typ == "clsact" {
		return false, err
	}
	if typ != "" {
		return false, fmt.Errorf("the device has an %s qdisc, which has no egress: configure the program that made it to use clsact, "+
			"or remove it (tc qdisc del dev %s ingress)", typ, dev.Attrs().Name)
	}
	err = netlink.QdiscAdd(clsactOf(dev))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add a clsact qdisc: %w", err)
	}
	return err == nil, nil
}

// clsactFilters lists all filters of a device's clsact qdisc, and none if it has no such qdisc.
func clsactFilters(dev netlink.Link) ([]netlink.Filter, error) {
	var all []netlink.Filter
	for parent := range filterParents {
		filters, err := listFilters(dev, parent)
		if err != nil {
			return nil, err
		}
		all = append(all, filters...)
	}
	return all, nil
}

func listFilters(dev netlink.Link, parent uint32) ([]netlink.Filter, error) {
	filters, err := netdump.Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(dev, parent) })
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	return filters, nil
}

// firstFilters lists the programs that a device has as filters at one hook, in the order in which they
// run. Filters in later chains run only if one of these leads there.
func firstFilters(dev netlink.Link, parent uint32) ([]*netlink.BpfFilter, error) {
	filters, err := listFilters(dev, parent)
	if err != nil {
		return nil, err
	}
	var first []*netlink.BpfFilter
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok && (bpf.Chain == nil || *bpf.Chain == 0) {
			first = append(first, bpf)
		}
	}
	return first, nil
}

func filterPrograms(dev netlink.Link, h hook) ([]ebpf.ProgramID, error) {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if h == hookTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	filters, err := firstFilters(dev, parent)
	var ids []ebpf.ProgramID
	for _, filter := range filters {
		ids = append(ids, ebpf.ProgramID(filter.Id))
	}
	return ids, err
}

func ourFilters(dev netlink.Link, pins pinDir) ([]*netlink.BpfFilter, error) {
	all, err := clsactFilters(dev)
	if err != nil {
		return nil, err
	}
	var ours []*netlink.BpfFilter
	for _, filter := range all {
		if bpf, ok := filter.(*netlink.BpfFilter); ok {
			if _, ok := pins.filterProgram(bpf); ok {
				ours = append(ours, bpf)
			}
		}
	}
	return ours, nil
}

// removeFilters removes our filters from a device, and the qdisc if it is empty then: an empty qdisc
// has no use, even if another program made it.
func removeFilters(dev netlink.Link, pins pinDir) (removed []string, err error) {
	ours, err := ourFilters(dev, pins)
	if err != nil || len(ours) == 0 {
		return nil, err
	}
	name := dev.Attrs().Name
	for _, filter := range ours {
		program, _ := pins.filterProgram(filter)
		if err := netlink.FilterDel(filter); err != nil && !errors.Is(err, unix.ENOENT) {
			return removed, fmt.Errorf("remove the filter %s: %w", program, err)
		}
		removed = append(removed, fmt.Sprintf("%s filter %s on %s", filterParents[filter.Parent], program, name))
	}
	left, err := clsactFilters(dev)
	if err != nil || len(left) > 0 {
		return removed, err
	}
	if err := netlink.QdiscDel(clsactOf(dev)); err != nil {
		return removed, fmt.Errorf("remove the empty clsact qdisc: %w", err)
	}
	return append(removed, "clsact qdisc on "+name), nil
}

// filterStatus is the part of Links about filters.
func filterStatus(pins pinDir, devices []netlink.Link) ([]LinkStatus, error) {
	var status []LinkStatus
	for _, dev := range devices {
		filters, err := ourFilters(dev, pins)
		if err = explain(dev, "tc", err); errors.Is(err, unix.ENODEV) {
			continue // it has just gone
		}
		if err != nil {
			return nil, err
		}
		for _, filter := range filters {
			program, _ := pins.filterProgram(filter)
			status = append(status, LinkStatus{
				Hook:      filterParents[filter.Parent],
				Kind:      "clsact",
				Device:    dev.Attrs().Name,
				Ifindex:   dev.Attrs().Index,
				Program:   program,
				ProgramID: ebpf.ProgramID(filter.Id),
				Attached:  true,
			})
		}
	}
	return status, nil
}
