// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/control/names"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
)

// prepareNames makes the server of names, if there is to be one. If not, the addresses are removed that the agent before
// this one has listened on.
func (a *Agent) prepareNames() {
	opts := a.cfg.Names
	if len(opts.Addresses) == 0 {
		if before, err := status.Read(a.cfg.RunDir); err == nil && before.Names != nil {
			a.warn("names of services", a.holdNames(nil))
		}
		return
	}
	opts.NodeName, opts.ServeAs, opts.Log = a.cfg.NodeName, a.cfg.ServeAs, a.log
	opts.Hold, opts.Warn = a.holdNames, a.reporter(&a.warnings)
	a.names = names.New(opts)
}

// holdNames gives the node the addresses that are listened on. It fails, too, if the node has those of the Service itself.
func (a *Agent) holdNames(addrs []netip.Addr) error {
	_, err := node.HoldOnLoopback([]netip.Addr{names.Listen4, names.Listen6}, addrs)
	for _, at := range a.cfg.Names.Addresses {
		if a.devices.Assigned()[at] {
			err = errors.Join(err, fmt.Errorf("%s is an address of a device of this node: what is sent there is left to the node", at))
		}
	}
	return err
}

func (a *Agent) answerNames(ctx context.Context) {
	if a.names != nil {
		a.names.Run(ctx)
	}
}

// withNames has the server of names follow what the source delivers, and adds its Service.
func (a *Agent) withNames(to source.Sink) source.Sink {
	if a.names == nil {
		return to
	}
	return a.names.Sink(to)
}

func (a *Agent) namesStatus() *status.Names {
	if a.names == nil {
		return nil
	}
	return a.names.Status()
}
