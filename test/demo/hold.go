// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// tryout is something to do in a network that is held.
type tryout struct{ title, command string }

// hold keeps the network up, and tells what can be done with it.
func (d *demo) hold(ctx context.Context) {
	d.heading("Held, until Ctrl-C", `Then everything is removed. Meanwhile, in another terminal, as root:`)
	for _, t := range d.tryouts() {
		fmt.Fprintf(d.out, "\n   # %s\n   %s\n", t.title, t.command)
	}
	fmt.Fprintf(d.out, `
   The manifests are in %s: edit them, and every agent follows at once.
   waggle and bpftool run outside of namespaces: within "ip netns exec", /sys/fs/bpf isn't there.
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
		{"the laptop asks a NodePort; again and again, to see different pods", curl("laptop", web4.String())},
		{"the same by IPv6", curl("laptop", web6.String())},
		{"the LoadBalancer address", curl("laptop", d.publicIP(publicService, false).String())},
		{"a pod asks a ClusterIP (not in the node's cgroup, hence packet by packet)", curl("client", d.clusterIP(backService, false).String())},
		{"the node's own loopback address, from within the node's cgroup, where the socket programs are",
			fmt.Sprintf("sh -c 'echo $$ > %s/cgroup.procs; exec %s'", node.Node.Cgroup, curl("node-1", d.nodePort(webService, loopback(false)).String()))},
		{"the services, as the datapath of node-1 has them", waggle("service list")},
		{"one of them, with its pods", waggle("service get " + webService)},
		{"some flows", waggle("flow list --limit 10")},
		{"the agent, its devices and programs, and the packets that each hook has counted", waggle("status")},
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
