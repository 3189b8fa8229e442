// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/test/topo"
)

// Services of the manifests, by what the demo does with them.
const (
	webService    = "myapp-service"
	publicService = "myapp-public"
	backService   = "back-end"
	dnsService    = "dns"
)

// section is some checks with something in common.
type section struct {
	title, text string
	how         string // what must do the work, for the summary
	checks      func(*demo) []check
}

var pathColumns = columns{
	{"FROM", 7}, {"TO", 25}, {"VIA", 8}, {"ANSWERED BY", 32}, {"POD SAW", 18}, {"HOOK", 15}, {"RESULT", 0},
}

// checkPaths shows and judges every way to a service.
func (d *demo) checkPaths(ctx context.Context) error {
	d.meetNeighbours()
	for _, s := range sections {
		if err := d.checkSection(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) checkSection(ctx context.Context, s section) error {
	d.heading(s.title, s.text)
	t := &table{columns: pathColumns}
	p := part{what: s.title, how: s.how}
	checks := s.checks(d)
	for i, c := range checks {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.progress("check %d of %d: %s asks %s", i+1, len(checks), c.from.name, c.to)
		f, err := d.run(c)
		if err != nil {
			return err
		}
		p.checks++
		p.requests += f.requests
		if len(f.problems) > 0 {
			p.wrong++
		}
		t.add(c.row(f)...)
	}
	d.write(t)
	d.summary.parts = append(d.summary.parts, p)
	return nil
}

// meetNeighbours makes the hosts learn each other's Ethernet addresses. XDP can't ask for them, so tc sends the first
// packets to an unknown neighbour.
func (d *demo) meetNeighbours() {
	const discard = 9
	laptop, node := d.askers["laptop"], d.askers["node-1"]
	for _, a := range []*asker{laptop, node} {
		for _, n := range d.net.Nodes {
			for _, ip := range []netip.Addr{n.IP4, n.IP6} {
				a.Connect(topo.Request{To: netip.AddrPortFrom(ip, discard)}) // refused, which is an answer too
			}
		}
	}
}

var sections = []section{
	{
		"From outside, to a NodePort", `Any node takes the request, and all pods of the service answer. tc passes it to a pod on that
			node, which sees the client's address. XDP forwards it to a pod on the other node at once.`,
		"tc (pod on that node), XDP (other node)",
		func(d *demo) []check { return append(d.nodePorts(webService, false), d.nodePorts(dnsService, true)...) },
	},
	{
		"From outside, to a LoadBalancer address", `The addresses are of a pool. The laptop has no route there: it asks by ARP and neighbour discovery,
			and the node that announces the address answers.`,
		"tc (pod on that node), XDP (other node)",
		(*demo).loadBalancers,
	},
	{
		"From a pod, to a ClusterIP", `connect() connects a TCP socket to a pod, so no packet needs translation. tc translates the
			packets of a connected UDP socket, so that it follows its service to another pod.`,
		"socket (TCP, unconnected UDP), tc (connected UDP)",
		func(d *demo) []check { return d.clusterIPs(d.askers["client"]) },
	},
	{
		"From a sandboxed pod, to a ClusterIP", `No hook sees its sockets (as in a virtual machine), so tc translates its packets at its veth.`,
		"tc at the pod's veth",
		func(d *demo) []check { return d.clusterIPs(d.askers["sandbox"]) },
	},
	{
		"From a node itself", `To a ClusterIP, and to a NodePort on its loopback address.`,
		"socket",
		func(d *demo) []check {
			return append(d.clusterIPs(d.askers["node-1"]), d.loopbacks(d.askers["node-1"])...)
		},
	},
}

func (d *demo) loadBalancers() []check {
	return d.eachFamily(func(v6 bool) check {
		to := d.publicIP(publicService, v6)
		return check{from: d.askers["laptop"], to: to, what: publicService, pods: d.podsOf(publicService), enters: d.announcers[to.Addr()]}
	})
}

func (d *demo) eachFamily(of func(v6 bool) check) []check {
	return []check{of(false), of(true)}
}

func (d *demo) nodePorts(service string, udp bool) []check {
	var all []check
	for _, a := range d.agents {
		all = append(all, d.eachFamily(func(v6 bool) check {
			to := d.nodePort(service, ofSameFamily(v6, a.Node.IP4, a.Node.IP6)[0])
			return check{from: d.askers["laptop"], to: to, what: a.Node.Name, udp: udp, pods: d.podsOf(service), enters: a}
		})...)
	}
	return all
}

func (d *demo) clusterIPs(from *asker) []check {
	var all []check
	for _, service := range []string{backService, dnsService} {
		all = append(all, d.eachFamily(func(v6 bool) check {
			to := d.clusterIP(service, v6)
			return check{from: from, to: to, what: service, udp: service == dnsService, pods: d.podsOf(service)}
		})...)
	}
	return all
}

func (d *demo) loopbacks(from *asker) []check {
	var all []check
	for _, service := range []string{webService, dnsService} {
		all = append(all, d.eachFamily(func(v6 bool) check {
			to := d.nodePort(service, loopback(v6))
			return check{from: from, to: to, what: service, udp: service == dnsService, pods: d.podsOf(service)}
		})...)
	}
	return all
}

func loopback(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.MustParseAddr("127.0.0.1")
}

// row shows the results of a check, with a line for each node that has answered.
func (c check) row(f *findings) [][]string {
	var answered, saw []string
	for _, node := range c.nodes() {
		var pods []string
		var clients []netip.Addr
		for _, p := range c.pods {
			if p.Node == node && f.answers[p] > 0 {
				pods = append(pods, p.Name)
				clients = append(clients, f.sawAs[p]...)
			}
		}
		if len(pods) > 0 {
			slices.SortFunc(clients, netip.Addr.Compare)
			answered = append(answered, node.Name+": "+strings.Join(pods, ", "))
			saw = append(saw, list(slices.Compact(clients), ", "))
		}
	}
	result := line("ok")
	if len(f.problems) > 0 {
		result = wrong(f.problems)
	}
	return [][]string{line(c.from.name), {c.to.String(), "(" + c.what + ")"}, line(c.via()), answered, saw, f.hooks, result}
}

// nodes returns the nodes of the pods. The node where requests enter comes first, as its hook does.
func (c check) nodes() []*topo.Node {
	var nodes []*topo.Node
	if c.enters != nil {
		nodes = append(nodes, c.enters.Node)
	}
	for _, p := range c.pods {
		if !slices.Contains(nodes, p.Node) {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

func (c check) via() string {
	proto, family := "TCP", "IPv4"
	if c.udp {
		proto = "UDP"
	}
	if c.v6() {
		family = "IPv6"
	}
	return fmt.Sprintf("%s/%s", proto, family)
}
