// SPDX-License-Identifier: Apache-2.0

// Package node follows the state of the node: its devices and their roles, its addresses, routes and next hops,
// its pods' namespaces, its reserved ports, and what other programs have on its hooks and in netfilter. It
// keeps the maps that describe the node, and the programs on its devices, in step with that.
package node

import (
	"errors"
	"fmt"
	gomaps "maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/drift"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/control/upgrade"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/netdump"
	"github.com/waggle-lb/waggle/maps"
)

// XDPMode is where XDP programs are attached.
type XDPMode string

// The modes of --xdp.
const (
	XDPAuto   XDPMode = "auto"   // on external devices whose driver transmits from XDP reliably
	XDPOff    XDPMode = "off"    // tc does all the work
	XDPAlways XDPMode = "always" // on veth too, whose peer must then run XDP, and fill checksums in
)

// ExpressMode is whether flows may go past the node's stack.
type ExpressMode string

// The modes of --express.
const (
	ExpressAuto ExpressMode = "auto" // flows to other nodes do, where tc or XDP can transmit
	ExpressOff  ExpressMode = "off"  // requests pass routing and netfilter, whichever path they take
)

// DeviceOptions are the options of Devices.
type DeviceOptions struct {
	Rules     DeviceRules
	XDP       XDPMode
	Express   ExpressMode // empty: ExpressAuto
	NodePorts NodePortAddresses
	// Converted is called when the flows of the previous release have been converted, if there were any
	// at the start; nil for nothing.
	Converted func()
}

// Devices keeps the programs on the node's devices, and the maps that describe the node, in step with its links
// and addresses. An error with one device affects only that device.
type Devices struct {
	dp        *loader.Datapath
	table     *maps.Devices
	nodeAddrs *maps.NodeAddrs
	podRanges *maps.PodRanges
	opts      DeviceOptions
	log       *logrus.Entry
	repairs   *drift.Tally
	old       *upgrade.Flows // that the previous release has left, until they are converted; mostly nil

	mu            sync.Mutex
	kernel        kernelView
	inStep        bool         // the last Sync has done all that was necessary, according to kernel
	ready         bool         // nodeIPs is known
	nodeIPs       []netip.Addr // of our Node object
	status        map[int]status.Device
	written       map[int]maps.Device
	writtenAddrs  map[netip.Addr]maps.NodeAddr // nil before they have been written
	writtenRanges []netip.Prefix               // of pods; nil before they have been written
	seen          map[int]bool                 // the devices that had a role at the last Sync; nil before the first
	routed        map[int]bool                 // the devices by which routes led elsewhere at the last Sync
	problems      []string                     // found by the last Sync
	assigned      map[netip.Addr]bool          // the addresses of all devices
	unseen        map[int]string               // notices of veth devices whose peer can't be inspected
	leaving       map[int]bool                 // devices that could not be removed from the maps yet
	found         []loader.LinkStatus          // by the last Repair, until TakeFound
	touched       map[int]status.Role          // the devices that got or lost programs since the last TakeTouched
}

// NewDevices makes Devices; Sync does the work.
func NewDevices(dp *loader.Datapath, opts DeviceOptions, log *logrus.Entry) *Devices {
	return &Devices{
		dp:        dp,
		table:     maps.NewDevices(dp),
		nodeAddrs: maps.NewNodeAddrs(dp),
		podRanges: maps.NewPodRanges(dp),
		opts:      opts,
		log:       log,
		repairs:   drift.NewTally(repairedMaps...),
		status:    map[int]status.Device{},
		written:   map[int]maps.Device{},
		old:       upgrade.NewFlows(dp, log),
		leaving:   map[int]bool{},
		touched:   map[int]status.Role{},
	}
}

// SetNodeIPs sets the addresses of our Node object. An empty list: there is no Node object.
func (d *Devices) SetNodeIPs(ips []netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready, d.nodeIPs = true, ips
}

// Primary returns the node's primary addresses, at most one of each family. It returns none before the first
// Sync that knows the node's addresses.
func (d *Devices) Primary() []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []netip.Addr
	for _, a := range []netip.Addr{d.written[0].Addr4, d.written[0].Addr6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// Status lists the devices that have a role, by name.
func (d *Devices) Status() []status.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]status.Device, 0, len(d.status))
	for _, s := range d.status {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b status.Device) int { return a.Ifindex - b.Ifindex })
	return out
}

// Sync reads all links, addresses and routes and makes the programs and maps match them. Before the node's
// addresses are known it does nothing: it would take the role from a device that has it by these addresses, and
// break the connections that an earlier agent left there.
func (d *Devices) Sync() error {
	_, err := d.SyncChange(everything)
	return err
}

// SyncChange does the same after a change that the kernel has reported, and reads only what that may have
// changed. changed reports whether there was anything to do: many of the kernel's events change nothing for the
// agent.
func (d *Devices) SyncChange(change Change) (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready {
		return false, nil
	}
	changed, err = d.kernel.update(change)
	if err == nil && d.inStep && !changed && !change.isEmpty() {
		return false, nil
	}
	if err == nil {
		err = d.sync()
	}
	d.inStep = err == nil
	return true, err
}

// sync makes the programs and maps match what was last read of the kernel.
func (d *Devices) sync() error {
	facts := d.kernel.facts(d.nodeIPs)
	d.assigned = assigned(facts.devices)
	var errs []error
	if err := d.syncNodeAddrs(facts.devices); err != nil {
		errs = append(errs, err)
	}
	withRole, problems := d.assignRoles(facts)
	if err := d.syncPodRanges(withRole); err != nil {
		errs = append(errs, err)
	}
	policies := hasIPsec()
	seen := map[int]bool{0: true}
	finish, err := d.convertFlows(withRole)
	if err != nil {
		errs = append(errs, err)
	}
	for _, f := range withRole {
		seen[f.link.Attrs().Index] = true
		if err := d.syncDevice(f.deviceFacts, f.role, policies); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, finish())
	d.report(append(problems, d.opts.Rules.problems(facts)...))
	return errors.Join(append(errs, d.dropUnseen(seen))...)
}

type deviceInRole struct {
	*deviceFacts
	role status.Role
}

// assignRoles finds the devices that have a role, and the problems of others.
func (d *Devices) assignRoles(facts *nodeFacts) (withRole []deviceInRole, problems []string) {
	d.routed = map[int]bool{}
	for _, f := range facts.devices {
		d.routed[f.link.Attrs().Index] = f.routes.elsewhere
		role, why := d.opts.Rules.role(f)
		if role == status.RoleNone {
			problems = append(problems, withoutRole(f, why)...)
			continue
		}
		withRole = append(withRole, deviceInRole{f, role})
	}
	d.routed[0] = facts.untold
	return withRole, problems
}

// TakeTouched returns the devices that got or lost programs since its last call, by ifindex, with the roles
// that they got or had.
func (d *Devices) TakeTouched() map[int]status.Role {
	d.mu.Lock()
	defer d.mu.Unlock()
	touched := d.touched
	d.touched = map[int]status.Role{}
	return touched
}

// syncNodeAddrs writes the node's own addresses, and the primary addresses, which devices without addresses
// use.
func (d *Devices) syncNodeAddrs(facts []*deviceFacts) error {
	if primary := d.primaryOf(facts); d.written[0] != primary {
		if err := d.table.Put(0, primary); err != nil {
			return err
		}
		d.written[0] = primary
	}
	own := map[netip.Addr]maps.NodeAddr{}
	for _, f := range facts {
		for _, a := range f.local {
			own[a] = maps.NodeAddr{Local: true}
		}
	}
	for _, a := range d.opts.NodePorts.choose(globalAddrs(facts), d.nodeIPs) {
		own[a] = maps.NodeAddr{Local: true, NodePorts: true}
	}
	if d.writtenAddrs != nil && gomaps.Equal(own, d.writtenAddrs) {
		return nil
	}
	if err := d.nodeAddrs.Set(own); err != nil {
		return err
	}
	d.writtenAddrs = own
	return nil
}

// primaryOf chooses the node's primary addresses: the Node object's, else those of the device that the default
// route leads by.
func (d *Devices) primaryOf(facts []*deviceFacts) (primary maps.Device) {
	for _, f := range facts {
		if f.routes.inMain || f.holdsNodeIP {
			primary = withAddrs(primary, f.addrs)
		}
	}
	for _, f := range facts {
		if f.routes.isDefault {
			primary = withAddrs(primary, slices.Concat(f.routes.sources, f.addrs))
		}
	}
	all := globalAddrs(facts)
	for _, ip := range d.nodeIPs {
		if slices.Contains(all, ip) {
			primary = override(primary, ip)
		}
	}
	return primary
}

func globalAddrs(facts []*deviceFacts) (all []netip.Addr) {
	for _, f := range facts {
		all = append(all, f.addrs...)
	}
	return all
}

// withAddrs gives a device the first address of each family, if it has none yet.
func withAddrs(dev maps.Device, addrs []netip.Addr) maps.Device {
	for _, a := range addrs {
		if a.Is4() && !dev.Addr4.IsValid() || a.Is6() && !dev.Addr6.IsValid() {
			dev = override(dev, a)
		}
	}
	return dev
}

func override(dev maps.Device, a netip.Addr) maps.Device {
	if a.Is4() {
		dev.Addr4 = a
	} else {
		dev.Addr6 = a
	}
	return dev
}

// describe returns what the programs need to know of a device, except what depends on its programs. The node's
// own address comes first as the source of packets, then what the routes prefer.
func (d *Devices) describe(f *deviceFacts, role status.Role) maps.Device {
	dev := maps.Device{EgressHook: true, Pod: isOfPods(role)}
	var own []netip.Addr
	for _, ip := range d.nodeIPs {
		if slices.Contains(f.addrs, ip) {
			own = append(own, ip)
		}
	}
	return withAddrs(dev, slices.Concat(own, f.routes.sources, f.addrs))
}

// syncDevice attaches the programs of one device and describes it in the maps.
func (d *Devices) syncDevice(f *deviceFacts, role status.Role, ipsec bool) error {
	attrs := f.link.Attrs()
	state := status.Device{Name: attrs.Name, Ifindex: attrs.Index, Role: role}
	dev := d.describe(f, role)
	known, attached := d.status[attrs.Index]
	if attached && known.Role == role && known.Name == attrs.Name {
		state.TC, state.XDP = known.TC, known.XDP
	} else {
		d.touched[attrs.Index] = role
		if err := d.attach(f.link, role, &state); errors.Is(err, unix.ENODEV) {
			return nil // it has just gone
		} else if err != nil {
			return fmt.Errorf("device %s: %w", attrs.Name, err)
		}
	}
	dev.XDPTransmits = state.XDP == status.XDPNative
	dev.TCTransmits = (role == status.RoleExternal || role == status.RoleOverlay) && !ipsec && d.opts.Express != ExpressOff
	dev.Ethernet = hasLinkLayer(f.link)
	dev.Uplink = dev.TCTransmits && dev.Ethernet && role == status.RoleExternal
	state.Express = dev.TCTransmits
	if dev.Addr4.IsValid() {
		state.Addr4 = dev.Addr4.String()
	}
	if dev.Addr6.IsValid() {
		state.Addr6 = dev.Addr6.String()
	}
	if have, ok := d.written[attrs.Index]; !ok || have != dev {
		if err := d.table.Put(attrs.Index, dev); err != nil {
			return err
		}
		d.written[attrs.Index] = dev
	}
	d.status[attrs.Index] = state
	return nil
}

// attach puts the programs on a device. A device without XDP is slower, which is no error.
func (d *Devices) attach(link netlink.Link, role status.Role, state *status.Device) error {
	attrs := link.Attrs()
	log := d.log.WithFields(logrus.Fields{"device": attrs.Name, "role": role})
	if role == status.RolePodBridge {
		state.TC, state.XDP = "on its ports", "not for this role"
		log.Info("device known; its ports have the programs")
		return d.dp.DetachDevice(attrs.Index)
	}
	if err := d.dp.AttachTC(attrs.Index, tcRole(link, role)); err != nil {
		return err
	}
	state.TC = "attached"
	state.XDP = d.attachXDP(link, role)
	log.WithFields(logrus.Fields{"tc": state.TC, "xdp": state.XDP}).Info("device attached")
	return nil
}

// tcRole is the loader's role of a device with programs.
func tcRole(link netlink.Link, role status.Role) loader.Role {
	switch {
	case role == status.RolePod:
		return loader.Pod
	case !hasLinkLayer(link):
		return loader.ExternalL3
	}
	return loader.External
}

// attachXDP returns the mode, or the reason why the device has no XDP.
func (d *Devices) attachXDP(link netlink.Link, role status.Role) string {
	log := d.log.WithField("device", link.Attrs().Name)
	if why := d.withoutXDP(link, role); why != "" {
		if xdp := link.Attrs().Xdp; (xdp == nil || !xdp.Attached) && !d.written[link.Attrs().Index].XDPTransmits {
			return why // as on most devices; a search for a link takes time in proportion to the devices
		}
		// The device may have XDP from another role, or from an agent with another --xdp.
		if err := d.dp.DetachXDP(link.Attrs().Index); err != nil {
			log.WithError(err).Warn("XDP stays on this device")
		}
		return why
	}
	if err := d.dp.AttachXDP(link.Attrs().Index); err != nil {
		log.WithError(err).Warn("no XDP on this device, tc does the work")
		return err.Error()
	}
	return status.XDPNative
}

// withoutXDP returns the reason why a device should not run XDP, empty if it should.
func (d *Devices) withoutXDP(link netlink.Link, role status.Role) string {
	switch {
	case role != status.RoleExternal:
		return "not for this role"
	case d.opts.Express == ExpressOff:
		return "off (--express)"
	case d.opts.XDP == XDPOff:
		return "off (--xdp)"
	case !hasLinkLayer(link):
		return "no link layer"
	case d.opts.XDP == XDPAuto && link.Type() == "veth":
		return "veth loses what XDP transmits unless its peer runs XDP (--xdp=always)"
	case link.Type() == "veth":
		return d.vethWithoutXDP(link)
	}
	return ""
}

// dropUnseen removes the devices that are gone or lost their role from the maps. Its first call also removes
// those of an earlier agent.
func (d *Devices) dropUnseen(seen map[int]bool) error {
	known := slices.AppendSeq(slices.Collect(gomaps.Keys(d.written)), gomaps.Keys(d.leaving))
	if d.seen == nil {
		earlier, err := d.table.All()
		if err != nil {
			return err
		}
		known = slices.AppendSeq(known, gomaps.Keys(earlier))
	}
	d.seen = seen
	clear(d.leaving)
	var errs []error
	for _, index := range known {
		if seen[index] {
			continue
		}
		d.touched[index] = d.status[index].Role
		if s, ok := d.status[index]; ok {
			d.log.WithField("device", s.Name).Info("device gone")
		}
		err := errors.Join(d.dp.DetachDevice(index), d.table.Delete(index))
		delete(d.status, index)
		delete(d.written, index)
		delete(d.unseen, index)
		if err != nil {
			d.leaving[index] = true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hasIPsec reports whether the kernel has transform policies. Packets that match them must pass through the
// stack, and no redirect may lead them past it.
func hasIPsec() bool {
	policies, err := netdump.Whole(func() ([]netlink.XfrmPolicy, error) { return netlink.XfrmPolicyList(netlink.FAMILY_ALL) })
	if err != nil {
		return false
	}
	return slices.ContainsFunc(policies, func(p netlink.XfrmPolicy) bool {
		return len(p.Tmpls) > 0
	})
}
