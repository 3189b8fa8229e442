// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// tryout is something to do in a network that is held.
type tryout struct{ title, command string }

// hold keeps the network up, and shows what can be done with it.
func (d *demo) hold(ctx context.Context) {
	d.heading("The network stays until Ctrl-C", `Then the demo removes everything. Try in another terminal, as root:`)
	for _, t := range d.tryouts() {
		d.print("\n   %s\n   %s", d.style.dim("# "+t.title), t.command)
	}
	fmt.Fprintf(d.out, `
   The manifests are in %s: edit them, and all agents follow at once.
   Run waggle and bpftool outside of the namespaces: "ip netns exec" hides /sys/fs/bpf.
`, d.manifests.Dir)
	<-ctx.Done()
}

func (d *demo) tryouts() []tryout {
	node := d.agents[0]
	waggle := func(args string) string {
		return fmt.Sprintf("%s %s --pin-dir %s --run-dir %s", d.command(), args, node.PinDir, node.RunDir)
	}
	manifest := func(name string) string { return filepath.Join(d.manifests.Dir, name) }
	curl := func(host, to string) string {
		return fmt.Sprintf("ip netns exec %s-%s curl -sS --max-time 3 \"http://%s\"", d.net.Prefix, host, to)
	}
	web4, web6 := d.nodePort(webService, node.Node.IP4), d.nodePort(webService, node.Node.IP6)
	return []tryout{
		{"the laptop asks a NodePort; repeat it to see different pods", curl("laptop", web4.String())},
		{"the same by IPv6", curl("laptop", web6.String())},
		{"the LoadBalancer address", curl("laptop", d.publicIP(publicService, false).String())},
		{"which node announces it, and why", waggle("address list")},
		{"what the laptop knows by ARP", fmt.Sprintf("ip -n %s-laptop neigh", d.net.Prefix)},
		{"a pod asks a ClusterIP; this shell is not in the pod's cgroup, so its packets are translated", curl("client", d.clusterIP(backService, false).String())},
		{"a process of the node asks its own loopback address; the socket programs are in the node's cgroup",
			fmt.Sprintf("sh -c 'echo $$ > %s/cgroup.procs; exec %s'", node.Node.Cgroup, curl("node-1", d.nodePort(webService, loopback(false)).String()))},
		{"the services, as the datapath of node-1 has them", waggle("service list")},
		{"one of them, with its pods", waggle("service get " + webService)},
		{"some flows", waggle("flow list --limit 10")},
		{"why a request goes where it goes", fmt.Sprintf("nsenter --net=/run/netns/%s-node-1 %s", d.net.Prefix,
			waggle(fmt.Sprintf("explain --to %s --from %s", web4, netip.AddrPortFrom(d.net.Laptop.IP4, 40000))))},
		{"the agent, its devices and programs, and the packets of each hook", waggle("status")},
		{"the maps themselves", fmt.Sprintf("bpftool map dump pinned %s/maps/services4", node.PinDir)},
		{"take a pod out of myapp-service", fmt.Sprintf("sed -i 's/front-end/retired/' %s", manifest("myapp-pod-3.yaml"))},
		{"move the NodePort", fmt.Sprintf("sed -i 's/nodePort: 30008/nodePort: 30009/' %s", manifest("myapp-service.yaml"))},
		{"ask there", curl("laptop", fmt.Sprintf("%s:30009", node.Node.IP4))},
		{"delete a service; asked again, it refuses", fmt.Sprintf("rm %s", manifest("back-end-service.yaml"))},
	}
}

// command is how to call waggle from here.
func (d *demo) command() string {
	here, err := os.Getwd()
	if err != nil {
		return d.binary
	}
	if relative, err := filepath.Rel(here, d.binary); err == nil && !strings.HasPrefix(relative, "..") {
		return relative
	}
	return d.binary
}
