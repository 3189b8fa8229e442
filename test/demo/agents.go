// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// addAgents prepares an agent for each node, and removes what agents of a crashed demo left.
func (d *demo) addAgents() error {
	for _, node := range d.net.Nodes {
		agent := cluster.NewAgent(d.net, node, cluster.AgentOptions{
			Binary: d.binary, Manifests: d.manifests.Dir, Dir: d.dir,
			// By default waggle attaches no XDP to a veth, because its peer must run XDP, too. Here it does.
			Args: []string{"--xdp=always", namesFlag},
		})
		d.agents = append(d.agents, agent)
		if _, err := os.Stat(agent.PinDir); err == nil {
			if _, err := agent.CLI("cleanup"); err != nil {
				return err
			}
		}
	}
	return nil
}

// startAgents starts all agents at once, and waits until all services lead to their pods.
func (d *demo) startAgents() error {
	started := make(chan error, len(d.agents))
	for _, a := range d.agents {
		go func() { started <- a.Start() }()
	}
	var errs []error
	for range d.agents {
		errs = append(errs, <-started)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := d.readServices(); err != nil {
		return err
	}
	for name := range d.services {
		if err := errors.Join(d.routeToPublic(name), d.awaitPods(name)); err != nil {
			return err
		}
	}
	return nil
}

// routeToPublic routes a service's load balancer addresses to node-1, as an announcement of that
// node would.
func (d *demo) routeToPublic(service string) error {
	node := d.net.Nodes[0]
	var errs []error
	for via, addr := range map[netip.Addr]netip.Addr{
		node.IP4: d.publicIP(service, false).Addr(),
		node.IP6: d.publicIP(service, true).Addr(),
	} {
		if addr.IsValid() {
			errs = append(errs, d.net.Laptop.AddRoute(topo.Single(addr), via))
		}
	}
	return errors.Join(errs...)
}

// awaitPods waits until a service leads exactly to the pods that it selects, on all nodes.
func (d *demo) awaitPods(service string) error {
	want := map[netip.Addr]bool{}
	for _, p := range d.podsOf(service) {
		want[p.IP4], want[p.IP6] = true, true
	}
	for _, a := range d.agents {
		err := a.AwaitEndpoints(service, func(frontends map[maps.Frontend][]netip.AddrPort) bool {
			have := map[netip.Addr]bool{}
			for _, backends := range frontends {
				for _, b := range backends {
					have[b.Addr()] = true
					if !want[b.Addr()] {
						return false
					}
				}
			}
			return len(have) == len(want)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tearDown ends the agents, runs `waggle cleanup` on each node, and removes the network.
func (d *demo) tearDown() error {
	if d.net == nil {
		return nil
	}
	var errs []error
	for _, a := range d.agents {
		a.Kill()
		if _, err := a.CLI("cleanup"); err != nil {
			errs = append(errs, err)
		}
		if _, err := os.Stat(a.PinDir); err == nil {
			errs = append(errs, fmt.Errorf("cleanup has left %s", a.PinDir))
		}
	}
	return errors.Join(append(errs, d.net.Close())...)
}
