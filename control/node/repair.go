// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// repairedMaps are the maps that Devices repairs.
var repairedMaps = []string{"devices", "xdp_devices", "node_addrs4", "node_addrs6", "pod_ranges"}

// Repaired returns by map how many elements that others have changed Repair has corrected since the
// start. It has a 0 for each other map that describes the node.
func (d *Devices) Repaired() map[string]int { return d.repairs.Totals() }

// Repair reads all links, addresses and routes again, as the kernel does not report the end of all routes. It corrects
// what others have changed in the maps that describe the node, and notes detached programs: the next Sync attaches them
// again, and does what follows from what was read. Before the first Sync it does nothing.
func (d *Devices) Repair() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready {
		return nil
	}
	found := map[string]int{}
	err := errors.Join(d.repairTable(found), d.repairNodeAddrs(found), d.repairPodRanges(found))
	if _, failed := d.kernel.update(everything); failed != nil {
		err = errors.Join(err, failed)
	} else {
		err = errors.Join(err, d.findDetached())
	}
	d.lookAtPeers()
	d.repairs.Add(found, d.log)
	return err
}

func (d *Devices) repairTable(found map[string]int) error {
	have, err := d.table.All()
	if err != nil {
		return err
	}
	transmitting, err := d.table.Transmitting()
	if err != nil {
		return err
	}
	var errs []error
	for index, want := range d.written {
		got, ok := have[index]
		same, sameXDP := ok && got == want, transmitting[index] == want.XDPTransmits
		if same && sameXDP || index != 0 && !exists(index) {
			continue
		}
		if err := d.table.Put(index, want); err != nil {
			errs = append(errs, err)
			continue
		}
		if !same {
			found["devices"]++
		}
		if !sameXDP {
			found["xdp_devices"]++
		}
	}
	return errors.Join(append(errs, d.dropStrays(have, transmitting, found))...)
}

// dropStrays removes elements of devices that have no role.
func (d *Devices) dropStrays(have map[int]maps.Device, transmitting map[int]bool, found map[string]int) error {
	if d.seen == nil {
		return nil
	}
	var errs []error
	for index := range have {
		if !d.seen[index] {
			errs = append(errs, d.table.Delete(index))
			found["devices"]++
		}
	}
	for index := range transmitting {
		if _, both := have[index]; !d.seen[index] && !both {
			errs = append(errs, d.table.Delete(index))
			found["xdp_devices"]++
		}
	}
	return errors.Join(errs...)
}

func exists(ifindex int) bool {
	_, err := netlink.LinkByIndex(ifindex)
	var notFound netlink.LinkNotFoundError
	return !errors.As(err, &notFound)
}

func (d *Devices) repairNodeAddrs(found map[string]int) error {
	if d.writtenAddrs == nil {
		return nil
	}
	have, err := d.nodeAddrs.All()
	if err != nil {
		return err
	}
	drift := driftOf(have, d.writtenAddrs)
	if len(drift) == 0 {
		return nil
	}
	if err := d.nodeAddrs.Set(d.writtenAddrs); err != nil {
		return err
	}
	for table, n := range drift {
		found[table] += n
	}
	return nil
}

// driftOf counts by map the addresses that differ from what was written.
func driftOf(have, written map[netip.Addr]maps.NodeAddr) map[string]int {
	drift := map[string]int{}
	note := func(a netip.Addr) {
		if maps.FamilyOf(a) == maps.IPv4 {
			drift["node_addrs4"]++
		} else {
			drift["node_addrs6"]++
		}
	}
	for a, want := range written {
		if got, ok := have[a]; !ok || got != want {
			note(a)
		}
	}
	for a := range have {
		if _, ok := written[a]; !ok {
			note(a)
		}
	}
	return drift
}

// TakeFound returns the attachments that the last Repair has found; nil, if there was no Repair since
// the last call.
func (d *Devices) TakeFound() []loader.LinkStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := d.found
	d.found = nil
	return found
}

// findDetached, which follows a look at all links, forgets the devices that no longer run all the programs that were
// attached to them.
func (d *Devices) findDetached() error {
	links, err := d.dp.LinksAmong(d.kernel.allLinks())
	if err != nil {
		return err
	}
	d.found = links
	runs := map[int][]string{}
	for _, l := range links {
		if l.Attached {
			runs[l.Ifindex] = append(runs[l.Ifindex], l.Hook)
		}
	}
	for index, s := range d.status {
		if s.Role == status.RolePodBridge {
			continue
		}
		hooks := []string{"tc-ingress", "tc-egress"}
		if s.XDP == status.XDPNative {
			hooks = append(hooks, "xdp")
		}
		missing := slices.DeleteFunc(hooks, func(hook string) bool { return slices.Contains(runs[index], hook) })
		if len(missing) == 0 || !exists(index) {
			continue
		}
		d.log.WithFields(logrus.Fields{"device": s.Name, "hooks": missing}).
			Warn("another program detached waggle's programs; attaching them again")
		delete(d.status, index)
	}
	return nil
}
