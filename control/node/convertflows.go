// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// convertFlows replaces the programs of the previous release by ours, and converts its flows. finish
// ends the conversion; it is for the time when all devices have what they need. If there is nothing
// to convert, both do nothing. After an error the next Sync tries again.
func (d *Devices) convertFlows(devices []deviceInRole) (finish func() error, err error) {
	finish = func() error { return nil }
	if d.old == nil {
		return finish, nil
	}
	if err := d.describeAhead(devices); err != nil {
		return finish, err
	}
	roles, pod := map[int]loader.Role{}, map[int]bool{}
	for _, dev := range devices {
		index := dev.link.Attrs().Index
		pod[index] = dev.role == status.RolePod || dev.role == status.RolePodBridge
		if dev.role != status.RolePodBridge {
			roles[index] = tcRole(dev.link, dev.role)
		}
	}
	if err := d.old.Convert(roles, pod); err != nil {
		return finish, err
	}
	return func() error { return d.endConversion(pod) }, nil
}

func (d *Devices) endConversion(pod map[int]bool) error {
	if err := d.old.Finish(pod); err != nil {
		return err
	}
	d.old = nil
	if d.opts.Converted != nil {
		d.opts.Converted()
	}
	return nil
}

// describeAhead writes what our programs have to know of devices and is not in the maps yet. What is
// there already stays as it is, because the old programs still use it.
func (d *Devices) describeAhead(devices []deviceInRole) error {
	known, err := d.table.All()
	if err != nil {
		return err
	}
	for _, dev := range devices {
		index := dev.link.Attrs().Index
		was, ok := known[index]
		if !ok {
			continue
		}
		now := d.describe(dev.deviceFacts, dev.role)
		now.TCTransmits, now.XDPTransmits = was.TCTransmits, was.XDPTransmits
		now.Ethernet = hasLinkLayer(dev.link)
		now.Uplink = now.TCTransmits && now.Ethernet && dev.role == status.RoleExternal
		if err := d.table.Put(index, now); err != nil {
			return err
		}
	}
	return nil
}
