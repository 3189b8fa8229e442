// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	stdmaps "maps"
	"time"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/loader"
)

// keepAttached repairs, as often as the proxy repairs its maps, what other programs have changed in
// the maps of devices, and have detached from devices and sockets.
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
	a.links.Take(func() ([]loader.LinkStatus, bool) {
		a.warn("repairing devices", a.devices.Repair())
		found := a.devices.TakeFound()
		return found, found != nil
	})
	a.syncDevices(node.Change{}) // attaches what Repair has found detached
	if a.keepSockets() {
		a.warn("links", a.links.Look())
	}
	a.poke()
}

// keepSockets asks the cgroup which programs it runs. Our links don't show it: those of a cgroup
// that was removed and made again look intact. attached reports whether programs had to be
// attached.
func (a *Agent) keepSockets() (attached bool) {
	if a.cfg.Cgroup == "" {
		return false
	}
	err := a.dp.CheckCgroup(a.cfg.Cgroup)
	if err != nil {
		attached = true
		a.log.WithError(err).Warn("socket programs are not attached; attaching them again")
		if err = a.dp.AttachCgroup(a.cfg.Cgroup); err == nil {
			err = a.dp.CheckCgroup(a.cfg.Cgroup)
		}
	}
	a.warn("sockets", err)
	return attached
}

// repaired counts by map the elements that others have changed, and that were repaired, since the start.
func (a *Agent) repaired() map[string]int {
	all := a.proxy.repairs.Totals()
	stdmaps.Copy(all, a.devices.Repaired()) // of other maps
	return all
}
