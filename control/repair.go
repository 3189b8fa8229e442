// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// repairs counts by map what others had changed and was repaired, since the start.
type repairs struct {
	mu    sync.Mutex
	total map[string]int
}

// add counts what one pass found, and logs it.
func (r *repairs) add(found map[string]int, log *logrus.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for table, n := range found {
		if r.total == nil {
			r.total = map[string]int{}
		}
		r.total[table] += n
		log.WithFields(logrus.Fields{"map": table, "elements": n}).Warn("somebody else changed a map; repaired")
	}
}

// deviceMaps are the maps that Devices looks after.
var deviceMaps = []string{"devices", "xdp_devices", "node_addrs4", "node_addrs6"}

// totals sums up, with a 0 for each map that nothing was repaired in.
func totals(all ...*repairs) map[string]int {
	sum := map[string]int{}
	for _, table := range slices.Concat(reconcile.RepairedMaps, deviceMaps) {
		sum[table] = 0
	}
	for _, r := range all {
		r.mu.Lock()
		for table, n := range r.total {
			sum[table] += n
		}
		r.mu.Unlock()
	}
	return sum
}

// keepAttached repairs, as often as the proxy does its maps, what others have changed of devices
// and detached from devices and sockets.
func (a *Agent) keepAttached(ctx context.Context) {
	tick := time.NewTicker(a.proxy.pace.Repair)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.repairDevices()
	}
}

func (a *Agent) repairDevices() {
	since := a.links.now()
	a.warn("repairing devices", a.devices.Repair())
	if found := a.devices.takeFound(); found != nil {
		a.links.set(found, since)
	}
	a.syncDevices(nodeChange{}) // attaches what Repair has found detached
	if a.keepSockets() {
		a.warn("links", a.links.look(a.dp))
	}
	a.poke()
}

// keepSockets asks the cgroup what it runs, not our links: those of a cgroup that has been removed,
// and made anew, look well. It tells whether it has attached programs.
func (a *Agent) keepSockets() (attached bool) {
	if a.cfg.Cgroup == "" {
		return false
	}
	err := a.dp.CheckCgroup(a.cfg.Cgroup)
	if err != nil {
		attached = true
		a.log.WithError(err).Warn("socket programs don't run; attaching them again")
		if err = a.dp.AttachCgroup(a.cfg.Cgroup); err == nil {
			err = a.dp.CheckCgroup(a.cfg.Cgroup)
		}
	}
	a.warn("sockets", err)
	return attached
}

// Repair undoes what somebody else has changed in the maps that describe the node, and notes what
// has been detached: the next Sync attaches it again. Before the first Sync it knows of nothing.
func (d *Devices) Repair() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]int{}
	err := errors.Join(d.repairTable(found), d.repairNodeAddrs(found), d.findDetached())
	d.lookAtPeers()
	d.repairs.add(found, d.log)
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

// dropStrays removes what is of no device that has a role.
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

// driftOf counts by map the addresses that are not as they were written.
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

// takeFound returns what the last Repair has found attached; nil, if there was none since.
func (d *Devices) takeFound() []loader.LinkStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := d.found
	d.found = nil
	return found
}

// findDetached forgets the devices that no longer run all the programs that were attached to them.
func (d *Devices) findDetached() error {
	links, err := d.dp.Links()
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
			Warn("somebody else detached programs; attaching them again")
		delete(d.status, index)
	}
	return nil
}
