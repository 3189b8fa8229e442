// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// AddMachine adds a host to the Ethernet that is neither the laptop nor a node,
// such as one that runs a control plane. Machines have the addresses from .20
// on, in the order in which they are made. They reach the pods through the
// nodes.
func (n *Network) AddMachine(name string) (*Host, error) {
	n.building.Lock()
	defer n.building.Unlock()
	number := firstMachine + len(n.machines)
	if !validName.MatchString(name) || n.hasHost(name) || number > lastMachine {
		return nil, fmt.Errorf("machine %q: want a new name in lower-case letters, digits and dashes, and at most %d machines",
			name, lastMachine-firstMachine+1)
	}
	cgroup, err := n.cgroups.make(name)
	if err != nil {
		return nil, err
	}
	h, err := n.newHost(name, cgroup, hostSettings)
	if err != nil {
		return nil, errors.Join(err, removeCgroup(cgroup))
	}
	n.machines = append(n.machines, h)
	h.IP4, h.IP6 = onEthernet(number)
	if err := n.plugIn(h); err != nil {
		return nil, err
	}
	if n.opts.PodNetwork != Routed {
		return h, nil // pods' packets arrive with a node's address, or not at all
	}
	for _, node := range n.Nodes {
		if err := errors.Join(h.AddRoute(node.PodCIDR4, node.IP4), h.AddRoute(node.PodCIDR6, node.IP6)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// DialContext connects from inside the host's namespace to a literal address,
// for clients in this process.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
