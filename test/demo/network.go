// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// prefix names the namespaces (demo-laptop ..), the cgroups and the pin directories. It is fixed,
// so that the next demo finds what a crashed one has left.
const prefix = "demo"

type demo struct {
	out    io.Writer
	style  style
	dir    string // of all files that the demo makes
	binary string

	manifests cluster.Manifests
	net       *topo.Network
	agents    []*cluster.Agent // in the order of nodes
	pods      []*place         // in the order of nodes and addresses
	gone      []*place         // pods that were taken out of the manifests
	services  map[string]*v1.Service
	askers    map[string]*asker
	// announcers are the agents that announce the addresses of load balancers at first.
	announcers map[netip.Addr]*cluster.Agent

	summary summary
}

// place is a Pod of the manifests, with the namespace that stands for it.
type place struct {
	*topo.Pod
	object *v1.Pod
}

// asker is a client that sends requests.
type asker struct {
	*topo.Client
	name string
	host *topo.Host
	node *cluster.Agent // that it is on; nil for the laptop
	as   []netip.Addr   // its own addresses
}

func newDemo(out io.Writer, dir, binary string) *demo {
	return &demo{
		out: out, dir: dir, binary: binary,
		manifests: cluster.Manifests{Dir: filepath.Join(dir, "manifests")},
		services:  map[string]*v1.Service{},
		askers:    map[string]*asker{}, announcers: map[netip.Addr]*cluster.Agent{},
	}
}

// build makes the network that the manifests describe.
func (d *demo) build() error {
	if err := topo.MountBPFFS(); err != nil {
		return err
	}
	if err := topo.Sweep(prefix); err != nil {
		return err
	}
	if err := os.Mkdir(d.manifests.Dir, 0o755); err != nil {
		return err
	}
	if err := d.copyManifests(); err != nil {
		return err
	}
	opts := topo.ForXDP()
	opts.Prefix, opts.Named = prefix, true
	var err error
	if d.net, err = topo.New(opts); err != nil {
		return err
	}
	return errors.Join(d.addAgents(), d.addPods(), d.addAskers())
}

func (d *demo) addPods() error {
	objects, err := readPods(atStart)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := d.addPod(object); err != nil {
			return err
		}
	}
	return nil
}

// addPod does what a kubelet and a CNI plugin would: it makes the pod that a manifest describes.
func (d *demo) addPod(object *v1.Pod) error {
	ip4, err := netip.ParseAddr(object.Status.PodIP)
	if err != nil {
		return fmt.Errorf("pod %s: status.podIP: %w", object.Name, err)
	}
	i := slices.IndexFunc(d.net.Nodes, func(n *topo.Node) bool { return n.Name == object.Spec.NodeName })
	if i < 0 || !d.net.Nodes[i].PodCIDR4.Contains(ip4) {
		return fmt.Errorf("pod %s: no node %q has the address %s", object.Name, object.Spec.NodeName, ip4)
	}
	pod, err := d.net.Nodes[i].AddPod(object.Name, topo.PodOptions{
		Number:        int(ip4.As4()[3]),
		OutsideCgroup: object.Spec.RuntimeClassName != nil, // a virtual machine
	})
	if err != nil {
		return err
	}
	if ports := portsOf(object); len(ports.HTTP)+len(ports.UDP) > 0 {
		if _, err := pod.Serve(ports); err != nil {
			return err
		}
	}
	d.pods = append(d.pods, &place{pod, object})
	slices.SortFunc(d.pods, func(a, b *place) int { return a.IP4.Compare(b.IP4) })
	return nil
}

func portsOf(object *v1.Pod) topo.Ports {
	var ports topo.Ports
	for _, c := range object.Spec.Containers {
		for _, p := range c.Ports {
			if cmp.Or(p.Protocol, v1.ProtocolTCP) == v1.ProtocolUDP {
				ports.UDP = append(ports.UDP, uint16(p.ContainerPort))
			} else {
				ports.HTTP = append(ports.HTTP, uint16(p.ContainerPort))
			}
		}
	}
	return ports
}

// addAskers starts the clients.
func (d *demo) addAskers() error {
	node := d.net.Nodes[0]
	errs := []error{d.addAsker(d.net.Laptop, nil, d.net.Laptop.IP4, d.net.Laptop.IP6),
		// To its pods a node speaks with its end of their link.
		d.addAsker(node.Host, d.agents[0], node.IP4, node.IP6, node.PodCIDR4.Addr().Next(), node.PodCIDR6.Addr().Next())}
	for _, p := range d.pods {
		if len(portsOf(p.object).HTTP)+len(portsOf(p.object).UDP) == 0 {
			errs = append(errs, d.addAsker(p.Host, d.agentOf(p.Node), p.IP4, p.IP6))
		}
	}
	return errors.Join(errs...)
}

func (d *demo) addAsker(h *topo.Host, node *cluster.Agent, as ...netip.Addr) error {
	client, err := h.Client()
	if err != nil {
		return err
	}
	d.askers[h.Name] = &asker{client, h.Name, h, node, as}
	return nil
}

func (d *demo) agentOf(node *topo.Node) *cluster.Agent {
	return d.agents[slices.Index(d.net.Nodes, node)]
}

// silent is for libraries that would log.
func silent() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}
