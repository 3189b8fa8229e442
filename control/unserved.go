// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// unservedNodePorts are those outside of the range that the programs look for.
type unservedNodePorts struct {
	served node.PortRange       // zero: any port
	all    map[maps.Name]string // messages by service port, as last planned
}

// ServeNodePorts sets the ports that the programs take for node ports, so that others are reported.
// Call it before the source runs.
func (p *Proxy) ServeNodePorts(served node.PortRange) { p.unserved.served = served }

// checkNodePort reports a service port whose node port is not served, and logs it when it is new.
func (p *Proxy) checkNodePort(svc plan.Service) {
	u := &p.unserved
	before := u.all[svc.Name]
	delete(u.all, svc.Name)
	if u.served == (node.PortRange{}) {
		return
	}
	for _, f := range svc.Frontends {
		if f.Kind != maps.NodePort || f.Port >= u.served.Min && f.Port <= u.served.Max {
			continue
		}
		message := fmt.Sprintf("service %s: nodePort %d is not served, it is outside of %s (--nodeport-range)", svc.Name, f.Port, u.served)
		if message != before {
			p.log.Warn(message)
			p.events.warn(svc.Name, reasonNotServed, message)
		}
		if u.all == nil {
			u.all = map[maps.Name]string{}
		}
		u.all[svc.Name] = message
	}
}
