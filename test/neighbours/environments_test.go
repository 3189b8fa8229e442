// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// environment is what else is on the nodes.
type environment struct {
	name string
	rows []int // of the contract: those that it is the test of
	// fast ones are for every submission.
	fast bool
	// pods is the way from node to node, where flannel doesn't make it.
	pods    topo.PodNetwork
	flannel string // the configuration that flanneld reads, below networks
	network string // the list of CNI plugins, below networks
	rules   string // files below rules with this name, for nft or iptables-restore
	// known are words of the rules that it must have left on each node.
	known []string
	// nodes prepares them before there are rules and pods.
	nodes func(*testing.T, *setup)
	// inPods is what else there is in the pods.
	inPods func(*testing.T, *setup)
	// agent are flags of waggle's that its documentation recommends for such nodes.
	agent []string
	// more are paths that only this environment has.
	more []path
}

// environments in the order of what they are worth.
var environments = []environment{
	{name: "plain", fast: true, rows: []int{42, 46}, network: "ptp.conflist"},
	{name: "flannel-vxlan", fast: true, rows: []int{47}, pods: topo.Unrouted, flannel: "vxlan.json", network: "flannel.conflist",
		known: []string{"chain FLANNEL-POSTRTG", "chain FLANNEL-FWD"}},
	{name: "flannel-host-gw", rows: []int{47}, pods: topo.Unrouted, flannel: "host-gw.json", network: "flannel.conflist",
		known: []string{"chain FLANNEL-POSTRTG", "chain FLANNEL-FWD"}},
	{name: "flannel-nftables", rows: []int{47}, pods: topo.Unrouted, flannel: "vxlan-nftables.json", network: "flannel.conflist",
		known: []string{"table ip flannel-ipv4", "table ip6 flannel-ipv6", "masquerade"}},
	{name: "bridge-no-hairpin", rows: []int{46}, network: "bridge.conflist"},
	{name: "bridge-no-netfilter", rows: []int{46}, network: "bridge.conflist", nodes: noBridgeNetfilter},
	{name: "stateful", fast: true, rows: []int{48}, network: "ptp.conflist", rules: "stateful", known: []string{"ct state invalid drop"}},
	{name: "stateful-vxlan", rows: []int{47, 48}, pods: topo.Unrouted, flannel: "vxlan.json", network: "flannel.conflist", rules: "stateful",
		known: []string{"chain FLANNEL-POSTRTG", "ct state invalid drop"}},
	{name: "docker", rows: []int{49}, network: "bridge-firewall.conflist", rules: "docker",
		known: []string{"policy drop", "chain CNI-FORWARD"}},
	{name: "docker-flannel", rows: []int{47, 49}, pods: topo.Unrouted, flannel: "vxlan.json", network: "flannel.conflist", rules: "docker",
		known: []string{"policy drop", "chain FLANNEL-FWD"}},
	{name: "aws-vpc-cni", rows: []int{45, 50}, network: "ptp.conflist", rules: "aws-vpc-cni", nodes: addENIs,
		known: []string{"chain AWS-SNAT-CHAIN-0", "chain AWS-CONNMARK-CHAIN-0"}},
	{name: "istio", rows: []int{51}, network: "ptp.conflist", inPods: startSidecars, agent: []string{"--socket-lb=host"}},
	{name: "nodelocaldns", rows: []int{52}, network: "ptp.conflist", rules: "nodelocaldns", nodes: startDNSCache, more: dnsPaths,
		known: []string{"chain PREROUTING", "10.96.0.10"}},
	{name: "ufw", rows: []int{48}, network: "ptp.conflist", rules: "ufw", known: []string{"chain ufw-before-forward"}},
	{name: "bandwidth", network: "bandwidth.conflist"},
}

func (e environment) topology() topo.Options {
	opts := topo.Defaults()
	if *xdp {
		opts = topo.ForXDP()
	}
	opts.PodNetwork = e.pods
	return opts
}

// noBridgeNetfilter are nodes on which br_netfilter isn't loaded.
func noBridgeNetfilter(t *testing.T, s *setup) {
	t.Helper()
	for _, node := range s.Nodes {
		for _, family := range []string{"iptables", "ip6tables"} {
			check(t, node.Sysctl("net.bridge.bridge-nf-call-"+family, "0"))
		}
	}
}
