// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"regexp"
)

// exception says that rows differ from what kube-proxy's tests want, and by which row of the contract
// (test/rows) they may.
type exception struct {
	contract int
	why      string
	how      string // what differences returns
	// rows are regular expressions for whole names as in "nftables TestNodePorts/ipv4: node to
	// nodePort". Each row that one matches has to differ in this way.
	rows []string
}

var exceptions = []exception{
	{
		13, "a client outside keeps its address where the endpoint is on the node",
		"source kept to endpoints on the node",
		[]string{
			`nftables TestLoadBalancer: (external to nodePort|nodePort bypasses LoadBalancerSourceRanges|accepted external to LB[12])`,
			`nftables TestLoadBalancer: same node to LB[12], SNATted to LB[12] \(implicitly allowed\)`,
			`\w+ TestNodePorts/.*: external to nodePort( on secondary IP)?`,
			`\w+ TestExternalTrafficPolicyCluster: external to (external IP|LB IP|NodePort) hits both endpoints, masqueraded`,
			`\w+ TestTerminatingEndpointsTrafficPolicyCluster/(ready|only_terminating)_endpoints_exist: external to LB`,
			`\w+ TestInternalExternalMasquerade/.*: external to (NodePort|LB)( with iTP:Local)?`,
		},
	},
	{
		13, "a pod of the node keeps its address: answers pass its device, wherever the endpoint is",
		"source kept",
		[]string{
			`\w+ TestExternalTrafficPolicyCluster: pod to (external IP|LB IP|NodePort) hits both endpoints, masqueraded`,
			`\w+ TestInternalExternalMasquerade/.*: pod to (NodePort|LB)( with iTP:Local)?`,
		},
	},
	{
		9, "an answer can't miss the node where the endpoint is on it, so the client's address is kept",
		"source kept to endpoints on the node",
		[]string{`\w+ TestInternalExternalMasquerade/base: external to ClusterIP( with [ei]TP:Local)?`},
	},
	{
		9, "the pods' devices are a detector, with or without a cluster CIDR: what comes by others is from outside",
		"source translated to endpoints elsewhere",
		[]string{`\w+ TestInternalExternalMasquerade/no_LocalTrafficDetector: external to ClusterIP( with eTP:Local)?`},
	},
	{
		14, "a pod of the node is known by its device, with or without a cluster CIDR",
		"led to [10.180.0.2:80 10.180.1.2:80], not to [10.180.0.2:80]",
		[]string{`\w+ TestInternalExternalMasquerade/(masqueradeAll,_)?no_LocalTrafficDetector: pod to (NodePort|LB) with eTP:Local`},
	},
	{
		21, "an unused port of a cluster IP is refused, as in kube-proxy's nftables mode",
		"refused, not left alone",
		[]string{`iptables TestClusterIPGeneral: (TCP-only port does not match UDP traffic|svc1 does not accept svc2's ports)`},
	},
	{
		11, "NodePorts answer a process of the node at 127.0.0.1",
		"led to [10.180.0.1:80 10.180.2.1:80] (source translated), not left alone",
		[]string{`iptables TestNodePorts/ipv4,.*: localhost to nodePort is ignored`},
	},
	{
		11, "NodePorts answer a process of the node at ::1",
		"led to [[fd00:10:180::1]:80 [fd00:10:180::2:1]:80] (source translated), not left alone",
		[]string{`iptables TestNodePorts/ipv6,.*: localhost to nodePort is ignored`},
	},
}

// rowName is what exceptions know a row by.
func rowName(c recordedCase, r recordedRow) string {
	return fmt.Sprintf("%s %s: %s", c.Package, c.Test, r.Name)
}

// excuse finds the exception for a row, and the expression that matches it; nil: there is none.
func excuse(name string) (*exception, string) {
	for i, e := range exceptions {
		for _, row := range e.rows {
			if regexp.MustCompile("^(" + row + ")$").MatchString(name) {
				return &exceptions[i], row
			}
		}
	}
	return nil, ""
}

// unused are the expressions of exceptions that have matched no row.
func unused(used map[string]bool) (rows []string) {
	for _, e := range exceptions {
		for _, row := range e.rows {
			if !used[row] {
				rows = append(rows, row)
			}
		}
	}
	return rows
}
