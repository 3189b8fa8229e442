// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
)

// addAgents prepares an agent for each node, and removes what agents of a crashed demo left.
func (d *demo) addAgents() error {
	members, err := d.memberFlags()
	if err != nil {
		return err
	}
	for _, node := range d.net.Nodes {
		agent := cluster.NewAgent(d.net, node, cluster.AgentOptions{
			Binary: d.binary, Manifests: d.manifests.Dir, Dir: d.dir,
			// By default waggle attaches no XDP to a veth, because its peer must run XDP, too. Here it does.
			Args: append([]string{"--xdp=always", namesFlag}, members...),
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
		if err := d.awaitPods(name); err != nil {
			return err
		}
	}
	return d.awaitAnnouncers()
}

// awaitAnnouncers waits until the addresses of load balancers are announced.
func (d *demo) awaitAnnouncers() error {
	for _, v6 := range []bool{false, true} {
		addr := d.publicIP(publicService, v6).Addr()
		holder, err := d.awaitHolder(d.agents, addr, nil)
		if err != nil {
			return err
		}
		d.announcers[addr] = holder
	}
	return nil
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
