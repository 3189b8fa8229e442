// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/topo"
)

// draw shows the network.
func (d *demo) draw() {
	l := d.net.Laptop
	d.heading("The network", "")
	fmt.Fprintf(d.out, "             laptop  %s  %s\n", l.IP4, l.IP6)
	fmt.Fprintln(d.out, "                |")
	fmt.Fprintln(d.out, "     -----------+----------+----------------------------------+------------  one Ethernet")
	fmt.Fprintln(d.out, "                           |                                  |")
	left, right := d.drawNode(d.net.Nodes[0]), d.drawNode(d.net.Nodes[1])
	for i := range max(len(left), len(right)) {
		var cells [2]string
		for j, column := range [][]string{left, right} {
			if i < len(column) {
				cells[j] = column[i]
			}
		}
		fmt.Fprintln(d.out, strings.TrimRight(fmt.Sprintf("     %-43s%s", cells[0], cells[1]), " "))
	}
	fmt.Fprintln(d.out, "\n     On each node: a waggle agent, with XDP and tc programs on eth0, tc programs on the pods' veths,")
	fmt.Fprintln(d.out, "     and socket programs on the node's cgroup. No other proxy, no netfilter rules.")
}

func (d *demo) drawNode(node *topo.Node) []string {
	lines := []string{fmt.Sprintf("%s  %s  %s", node.Name, node.IP4, node.IP6)}
	for _, p := range d.pods {
		if p.Node == node {
			lines = append(lines, fmt.Sprintf("   %-15s %-11s %s", p.Name, p.IP4, p.IP6))
		}
	}
	return lines
}

var serviceColumns = columns{
	{"SERVICE", 7}, {"TYPE", 7}, {"CLUSTER-IP", 7}, {"EXTERNAL-IP", 7}, {"PORT", 7}, {"PODS", 0},
}

// listServices shows the services of the manifests.
func (d *demo) listServices() error {
	d.heading("The services", `From Kubernetes YAML in a directory, test/demo/manifests. The pods run small servers instead of
		nginx and coredns: each answers with its own name, and with the client's address as it sees it.`)
	t := &table{columns: serviceColumns}
	for _, name := range []string{webService, publicService, backService, dnsService} {
		s, ok := d.services[name]
		if !ok {
			return fmt.Errorf("no manifest describes the service %s", name)
		}
		var external, pods []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			external = append(external, i.IP)
		}
		for _, p := range d.podsOf(name) {
			pods = append(pods, p.Name)
		}
		t.add(line(name), line(string(s.Spec.Type)), s.Spec.ClusterIPs, external, line(portText(s.Spec.Ports[0])), line(strings.Join(pods, ", ")))
	}
	d.write(t)
	return nil
}

func portText(p v1.ServicePort) string {
	if p.NodePort != 0 {
		return fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
	}
	return fmt.Sprintf("%d/%s", p.Port, p.Protocol)
}
