// SPDX-License-Identifier: Apache-2.0

package neighbours

import "regexp"

// clause is what the contract says of some cells besides "as kube-proxy".
type clause struct {
	environment string
	cells       *regexp.Regexp // of the cells' names
	row         int
	says        string
}

// exceptions are cells that work with kube-proxy and need not with waggle.
var exceptions []clause

// promises are cells that must work with waggle, whether or not they do with kube-proxy.
var promises = []clause{
	{"bridge-no-hairpin", regexp.MustCompile("^hairpin"), 46, "br_netfilter has the bridge send back what kube-proxy translates, which it does in hairpin mode only"},
	{"aws-vpc-cni", regexp.MustCompile("^LB address"), 50, "replies leave by the device that the request came in by, whatever marks connections with"},
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
