// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// convertFlows puts our programs into the places of those of the release before this one, and
// converts its flows. What it returns ends that, once all devices have what they need. Where there is
// nothing to be converted, both do nothing; after an error the next Sync tries again.
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

// describeAhead tells what our programs must know of devices that they don't have yet. What the
// programs there know already stays as it is: they, too, go by it.
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
