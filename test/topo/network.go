// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// PodNetwork is how the pods of different nodes reach each other.
type PodNetwork int

const (
	// Routed nodes have routes to each other's pods on the Ethernet.
	Routed PodNetwork = iota
	// VXLAN nodes have a tunnel device, vxlan0, like flannel's.
	VXLAN
	// IPIP, GRE and WireGuard nodes have such a tunnel to each other node, like Calico's. These
	// devices have no link layer. IPIP leaves IPv6 to routes on the Ethernet. WireGuard needs
	// wg(8).
	IPIP
	GRE
	WireGuard
	// Unrouted nodes have no routes to each other's pods: another program adds them.
	Unrouted
)

// mtu is the largest packet that pods can send, in bytes; 0 is the kernel's default.
func (p PodNetwork) mtu() int {
	switch p {
	case VXLAN:
		return vxlanMTU
	case IPIP, GRE, WireGuard:
		return tunnelMTU
	}
	return 0
}

// Options are the options of a network.
type Options struct {
	// Prefix is the network's name in /run/netns and in the cgroup tree: lower-case letters and
	// digits. The default is made from the process id.
	Prefix string
	// Nodes is the number of nodes, up to 8; 0 is 2.
	Nodes      int
	PodNetwork PodNetwork
	Uplink     Uplink
	// TxOffload leaves checksums and segmentation to the receiver, which is veth's default. Tests
	// of XDP need it off: XDP would see unfinished checksums.
	TxOffload bool
	// XDPPeers attaches an XDP program to the bridge ports of the nodes. Without it, frames that
	// XDP sends on a node's eth0 don't arrive.
	XDPPeers bool
	// Queues is how many receive and transmit queues each end of a veth has; 0 is 1. The kernel serves a queue on one
	// CPU at a time.
	Queues int
	// Named makes the namespaces visible below /run/netns as <prefix>-<host>, for `ip netns exec`.
	// These names outlive a crash; see [Sweep].
	Named bool
}

// Defaults returns two routed nodes with offload, and no XDP.
func Defaults() Options { return Options{Nodes: 2, TxOffload: true} }

// ForXDP returns the defaults with what XDP on the nodes' eth0 needs.
func ForXDP() Options { return Options{Nodes: 2, XDPPeers: true} }

// Network is a laptop and nodes on one Ethernet, and pods behind the nodes.
type Network struct {
	Prefix string
	Laptop *Host
	Nodes  []*Node
	// Link is the namespace of the bridge, br0, whose ports have the hosts' names. Captures there
	// show what was on the wire.
	Link *Host

	opts     Options
	machines []*Host
	cgroups  *cgroupTree
	building sync.Mutex // held while pods or the network are made or removed

	mu   sync.Mutex
	pass *ebpf.Program
	held []io.Closer
}

var (
	validName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	validPrefix = regexp.MustCompile(`^[a-z0-9]+$`)
	networks    atomic.Uint32
)

// New makes a network. If that fails, nothing is left of it.
func New(opts Options) (*Network, error) {
	n, err := prepare(opts)
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	if err := n.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("topology: %w", err), n.Close())
	}
	return n, nil
}

func prepare(opts Options) (*Network, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 2
	}
	if opts.Nodes < 1 || opts.Nodes > maxNodes {
		return nil, fmt.Errorf("%d nodes: want 1 to %d", opts.Nodes, maxNodes)
	}
	if opts.Prefix == "" {
		if err := sweepDead(); err != nil {
			return nil, err
		}
		opts.Prefix = defaultPrefix(os.Getpid(), int(networks.Add(1)))
	}
	if !validPrefix.MatchString(opts.Prefix) {
		return nil, fmt.Errorf("prefix %q: want lower-case letters and digits", opts.Prefix)
	}
	cgroups, err := newCgroupTree(opts.Prefix)
	if err != nil {
		return nil, err
	}
	return &Network{Prefix: opts.Prefix, opts: opts, cgroups: cgroups}, nil
}

func (n *Network) build() error {
	cgroup, err := n.cgroups.make("laptop")
	if err != nil {
		return err
	}
	if n.Link, err = n.newHost("link", "", bridgeSettings); err != nil {
		return err
	}
	if err := n.addBridge(); err != nil {
		return err
	}
	if n.Laptop, err = n.newHost("laptop", cgroup, hostSettings); err != nil {
		return err
	}
	n.Laptop.IP4, n.Laptop.IP6 = onEthernet(laptopHost)
	if err := n.plugIn(n.Laptop); err != nil {
		return err
	}
	for i := range n.opts.Nodes {
		if _, err := n.addNode(i); err != nil {
			return err
		}
	}
	return n.routePods()
}

func (n *Network) hosts() []*Host {
	var all []*Host
	for _, node := range n.Nodes {
		for _, pod := range node.pods {
			all = append(all, pod.Host)
		}
		all = append(all, node.Host)
	}
	all = append(all, n.machines...)
	for _, h := range []*Host{n.Laptop, n.Link} {
		if h != nil {
			all = append(all, h)
		}
	}
	return all
}

func (n *Network) hasHost(name string) bool {
	for _, h := range n.hosts() {
		if h.Name == name {
			return true
		}
	}
	return false
}

// Close ends all processes and removes all devices, namespaces and cgroups of the network. A second
// call does nothing.
func (n *Network) Close() error {
	n.building.Lock()
	defer n.building.Unlock()
	errs := []error{n.cgroups.kill()}
	n.mu.Lock()
	for _, c := range n.held {
		errs = append(errs, c.Close())
	}
	n.held, n.pass = nil, nil
	n.mu.Unlock()
	for _, h := range n.hosts() {
		errs = append(errs, h.close())
	}
	errs = append(errs, n.cgroups.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close topology %s: %w", n.Prefix, err)
	}
	return nil
}
