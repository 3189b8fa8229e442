// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Pod is a namespace behind a node.
type Pod struct {
	*Host
	Node *Node
	// HostVeth is the node's end of the pod's eth0.
	HostVeth string
}

// PodOptions are the options of one pod.
type PodOptions struct {
	// OutsideCgroup keeps the pod's processes out of the node's cgroup, so that
	// socket hooks attached to it don't see them, like those of a virtual
	// machine.
	OutsideCgroup bool
	// Attach connects the pod to its node as a CNI plugin does, and sets its
	// addresses and the name of its device on the node. The default is a veth
	// pair, with routes to single addresses.
	Attach func(*Pod) error
	// Number chooses the last part of the pod's addresses, to give a new pod
	// the addresses of a removed one. By default no number is used twice.
	Number int
}

// AddPod makes a pod. Its name is unique in the network.
func (node *Node) AddPod(name string, opts PodOptions) (*Pod, error) {
	n := node.network
	n.building.Lock()
	defer n.building.Unlock()
	number, err := node.podNumber(name, opts)
	if err != nil {
		return nil, err
	}
	parent := node.Name
	if opts.OutsideCgroup {
		parent = "outside"
	}
	cgroup, err := n.cgroups.make(parent, name)
	if err != nil {
		return nil, err
	}
	host, err := n.newHost(name, cgroup, hostSettings)
	if err != nil {
		return nil, errors.Join(err, removeCgroup(cgroup))
	}
	pod := &Pod{Host: host, Node: node, HostVeth: vethName(name)}
	pod.IP4, pod.IP6 = podAddr(node.index, number)
	attach := opts.Attach
	if attach == nil {
		attach = node.attach
	}
	if err := attach(pod); err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s: %w", name, err), pod.remove())
	}
	node.pods[name] = pod
	return pod, nil
}

// RemovePod kills the pod's processes and removes it.
func (node *Node) RemovePod(pod *Pod) error {
	node.network.building.Lock()
	defer node.network.building.Unlock()
	if node.pods[pod.Name] != pod {
		return nil
	}
	delete(node.pods, pod.Name)
	return pod.remove()
}

// remove follows the order of a real node: the processes die, their last
// segments still leave, and then the network goes. remove deletes the veth,
// because the kernel would do so only later.
func (pod *Pod) remove() error {
	err := killCgroup(pod.Cgroup)
	if _, missing := pod.Node.Link(pod.HostVeth); missing == nil {
		err = errors.Join(err, pod.Node.DelLink(pod.HostVeth))
	}
	return errors.Join(err, pod.close(), removeCgroup(pod.Cgroup))
}

func (node *Node) podNumber(name string, opts PodOptions) (int, error) {
	if !validName.MatchString(name) {
		return 0, fmt.Errorf("pod name %q: want lower-case letters, digits and dashes", name)
	}
	if node.isClosed() {
		return 0, fmt.Errorf("pod %s: %w", name, errClosed)
	}
	if node.network.hasHost(name) {
		return 0, fmt.Errorf("pod %s: the name is taken", name)
	}
	number := opts.Number
	if number == 0 {
		number = node.nextPod
	}
	if number < firstPod || number > lastPod {
		return 0, fmt.Errorf("pod %s: number %d is not in %d..%d", name, number, firstPod, lastPod)
	}
	ip4, _ := podAddr(node.index, number)
	for _, pod := range node.pods {
		if pod.IP4 == ip4 {
			return 0, fmt.Errorf("pod %s: %s has the address %s", name, pod.Name, ip4)
		}
	}
	node.nextPod = max(node.nextPod, number+1)
	return number, nil
}

// attach connects a pod to its node, with /32 addresses and routes: pods of one
// node reach each other through the node, as with most CNI plugins.
func (node *Node) attach(pod *Pod) error {
	if err := node.network.connect(end{node.Host, pod.HostVeth}, end{pod.Host, "eth0"}, node.network.opts.PodNetwork.mtu()); err != nil {
		return err
	}
	gateway4, gateway6 := podAddr(node.index, 1)
	for _, family := range []struct{ pod, gateway netip.Addr }{{pod.IP4, gateway4}, {pod.IP6, gateway6}} {
		err := errors.Join(
			node.AddAddr(pod.HostVeth, Single(family.gateway)),
			pod.AddAddr("eth0", Single(family.pod)),
			node.routeToPod(pod.HostVeth, family.pod),
			pod.setGateway(family.gateway),
		)
		if err != nil {
			return err
		}
	}
	return errors.Join(node.AwaitCarrier(pod.HostVeth), pod.AwaitCarrier("eth0"))
}

func (node *Node) routeToPod(veth string, addr netip.Addr) error {
	link, err := node.Link(veth)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(addr), Scope: netlink.SCOPE_LINK}
	if err := node.ns.netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("%s: route %s dev %s: %w", node.Name, addr, veth, err)
	}
	return nil
}

func (h *Host) setGateway(gateway netip.Addr) error {
	link, err := h.Link("eth0")
	if err != nil {
		return err
	}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	everywhere := netip.PrefixFrom(any4, 0)
	if gateway.Is6() {
		everywhere = netip.PrefixFrom(any6, 0)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       ipNet(everywhere),
		Gw:        gateway.AsSlice(),
		Flags:     int(netlink.FLAG_ONLINK),
	}
	if err := h.ns.netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("%s: default route via %s: %w", h.Name, gateway, err)
	}
	return nil
}
