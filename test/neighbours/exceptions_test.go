// SPDX-License-Identifier: Apache-2.0

package neighbours

import "regexp"

// clause is what there is to say of some cells besides that waggle does what kube-proxy does.
type clause struct {
	environment string
	cells       *regexp.Regexp // of the cells' names
	row         int            // of the contract
	says        string
}

// exceptions are cells that work with kube-proxy and need not with waggle.
var exceptions []clause

// promises are cells that must work with waggle, whether or not they do with kube-proxy.
var promises = []clause{
	{"bridge-no-hairpin", regexp.MustCompile("^hairpin"), 46, "br_netfilter has the bridge send back what kube-proxy translates, which it does in hairpin mode only"},
	{"aws-vpc-cni", regexp.MustCompile("^LB address"), 50, "replies leave by the device that the request came in by, whatever marks connections with"},
}

// shortcomings are cells that don't work with kube-proxy. Any other that doesn't is a fault of the
// environment, or of the test.
var shortcomings = []clause{
	{"bridge-no-hairpin", regexp.MustCompile("^hairpin"), 46, "as the promise says"},
	{"bridge-no-netfilter", regexp.MustCompile("^ClusterIP by .* local$"), 46, "the answer of a pod on the same bridge does not pass netfilter"},
	{"docker", regexp.MustCompile("^(NodePort|LB|hostPort)|^ClusterIP .* remote$"), 49, "the plugin firewall accepts only what its own node's pods have begun"},
	{"aws-vpc-cni", regexp.MustCompile("^LB address, ...4 local$"), 50, "only what was sent to the node's own address is marked"},
}

// find looks up the clause for a cell.
func find(clauses []clause, environment string, c cell) *clause {
	for i := range clauses {
		if clauses[i].environment == environment && clauses[i].cells.MatchString(c.String()) {
			return &clauses[i]
		}
	}
	return nil
}
