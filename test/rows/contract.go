// SPDX-License-Identifier: Apache-2.0

package main

// row is what the contract owes in one respect.
type row struct {
	number int
	title  string
}

// contract has the rows that must have a test, in order. Of those behind the 41st, these are the
// ones that the project promises as yet.
var contract = []row{
	{1, "objects taken"},
	{2, "objects skipped"},
	{3, "dual stack"},
	{4, "endpoint conditions"},
	{5, "port identity"},
	{6, "start"},
	{7, "cadence"},
	{8, "ClusterIP"},
	{9, "ClusterIP source"},
	{10, "hairpin"},
	{11, "NodePort addresses"},
	{12, "external traffic"},
	{13, "external policy Cluster"},
	{14, "external policy Local"},
	{15, "external policy Local, no local endpoint"},
	{16, "externalIPs"},
	{17, "load balancer IPs"},
	{18, "loadBalancerSourceRanges"},
	{19, "internal policy Local"},
	{20, "no endpoints anywhere"},
	{21, "unused port of a live ClusterIP"},
	{22, "unallocated ClusterIP"},
	{23, "established flows"},
	{24, "terminating endpoints"},
	{25, "topology"},
	{26, "trafficDistribution"},
	{27, "session affinity"},
	{28, "UDP flows to dead endpoints"},
	{29, "SCTP"},
	{30, "healthCheckNodePort"},
	{31, "/healthz, /livez"},
	{32, "/metrics, /proxyMode, /configz"},
	{33, "node life cycle"},
	{34, "invalid packets"},
	{35, "NetworkPolicy"},
	{36, "cleanup"},
	{37, "kernel gate"},
	{38, "configuration"},
	{39, "metrics"},
	{40, "fragments"},
	{41, "path MTU"},
	{42, "own connections from a frontend's port"},
	{43, "source ports shared with netfilter"},
	{44, "a service and its endpoint from one port"},
	{45, "several NICs, and where packets come in"},
	{46, "a pod reaches itself by packet"},
	{49, "policy drop of FORWARD"},
	{50, "answers leave by the uplink that was asked"},
	{51, "sidecars and firewalls in pods"},
	{52, "cluster IPs that the node holds"},
	{53, "connected UDP sockets"},
	{55, "first packets of a flow on two CPUs"},
	{56, "other programs on the hooks"},
	{57, "virtual machines on a bridge"},
	{58, "the owner's filter rules"},
	{59, "MPTCP"},
	{60, "sockets bound to the loopback address"},
	{61, "spoofed sources of pods"},
	{62, "frames to many, and sources that can't be"},
}
