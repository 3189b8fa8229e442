// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"slices"
	"strings"
)

// iptablesTables are those that kube-proxy has chains in.
var iptablesTables = []string{"nat", "filter", "mangle"}

const (
	servicesChain    = "KUBE-SERVICES" // in both modes that use iptables
	markMasqChain    = "KUBE-MARK-MASQ"
	postroutingChain = "KUBE-POSTROUTING"
)

// entryChains are the chains that kube-proxy's own rules in the built-in chains lead to: the
// iptablesJumpChain(s) of pkg/proxy/iptables and pkg/proxy/ipvs.
var entryChains = []string{
	servicesChain, postroutingChain, "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD",
	"KUBE-PROXY-FIREWALL", "KUBE-NODE-PORT", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
}

// innerChains are those that only other chains lead to.
var innerChains = []string{
	markMasqChain, "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL",
}

// perServiceChains begin the names of chains that end in a hash.
var perServiceChains = []string{
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-",
	"KUBE-XLB-", // before 1.24
}

// isKubeProxys tells kube-proxy's chains from all others; KUBE-FIREWALL, KUBE-KUBELET-CANARY,
// KUBE-IPTABLES-HINT and KUBE-MARK-DROP are kubelet's.
func isKubeProxys(chain string) bool {
	return slices.Contains(entryChains, chain) || slices.Contains(innerChains, chain) ||
		slices.ContainsFunc(perServiceChains, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

// isTelling tells the chains by which kube-proxy is recognised. Those two may stay for others, and
// kubelets before 1.28 make them too.
func isTelling(chain string) bool {
	return isKubeProxys(chain) && chain != markMasqChain && chain != postroutingChain
}

// jump is a rule that leads from one chain to another; R is what its table knows the rule by.
type jump[R any] struct {
	from, to string
	builtin  bool // from is a chain that packets enter by themselves
	rule     R
}

// removal is what is to be done to one table.
type removal[R any] struct {
	rules  []R      // to delete first: they lead from chains that stay into chains that go
	chains []string // to flush, and then to delete
	kept   map[string]string
}

// planRemoval decides which of a table's chains go. A chain that somebody else's rule leads to
// stays, with all that it needs: CNI plugins may have been told to use KUBE-MARK-MASQ.
func planRemoval[R any](chains []string, jumps []jump[R]) removal[R] {
	r := removal[R]{kept: map[string]string{}}
	for _, j := range jumps {
		if isKubeProxys(j.to) && !isKubeProxys(j.from) && !j.isKubeProxys() {
			r.kept[j.to] = j.from
		}
	}
	for again := len(r.kept) > 0; again; {
		again = false
		keep := func(chain, because string) {
			if _, have := r.kept[chain]; !have && isKubeProxys(chain) {
				r.kept[chain], again = because, true
			}
		}
		for _, j := range jumps {
			if _, stays := r.kept[j.from]; stays {
				keep(j.to, j.from)
			}
		}
		if _, stays := r.kept[markMasqChain]; stays { // it only marks; there, the mark has its effect
			keep(postroutingChain, markMasqChain)
		}
	}
	for _, chain := range chains {
		if _, stays := r.kept[chain]; isKubeProxys(chain) && !stays {
			r.chains = append(r.chains, chain)
		}
	}
	slices.Sort(r.chains)
	for _, j := range jumps {
		if _, stays := r.kept[j.to]; !stays && j.isKubeProxys() {
			r.rules = append(r.rules, j.rule)
		}
	}
	return r
}

// isKubeProxys: whether kube-proxy has put the rule into a built-in chain.
func (j jump[R]) isKubeProxys() bool { return j.builtin && slices.Contains(entryChains, j.to) }

// report tells what was done to a table.
func (r removal[R]) report(to *Report, table string) {
	for _, chain := range r.chains {
		to.removed("chain %s of %s", chain, table)
	}
	for chain, because := range r.kept {
		if slices.Contains(r.chains, chain) {
			continue
		}
		to.left("chain %s of %s: rules of chain %s use it", chain, table, because)
	}
}
