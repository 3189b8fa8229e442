// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"slices"
	"strings"
)

// iptablesTables are the tables in which kube-proxy has chains.
var iptablesTables = []string{"nat", "filter", "mangle"}

const (
	servicesChain    = "KUBE-SERVICES" // in both modes that use iptables
	markMasqChain    = "KUBE-MARK-MASQ"
	postroutingChain = "KUBE-POSTROUTING"
)

// entryChains are the chains that kube-proxy's own rules in the built-in chains jump to: the
// iptablesJumpChain(s) of pkg/proxy/iptables and pkg/proxy/ipvs.
var entryChains = []string{
	servicesChain, postroutingChain, "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD",
	"KUBE-PROXY-FIREWALL", "KUBE-NODE-PORT", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
}

// innerChains are those that only other chains jump to.
var innerChains = []string{
	markMasqChain, "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL",
}

// perServiceChains are the prefixes of chains whose names end in a hash.
var perServiceChains = []string{
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-",
	"KUBE-XLB-", // before 1.24
}

// isKubeProxys reports whether a chain is kube-proxy's. KUBE-FIREWALL, KUBE-KUBELET-CANARY,
// KUBE-IPTABLES-HINT and KUBE-MARK-DROP are kubelet's.
func isKubeProxys(chain string) bool {
	return slices.Contains(entryChains, chain) || slices.Contains(innerChains, chain) ||
		slices.ContainsFunc(perServiceChains, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

// isTelling reports whether a chain proves that kube-proxy has run. The two excepted chains may
// stay for other programs, and kubelets before 1.28 make them too.
func isTelling(chain string) bool {
	return isKubeProxys(chain) && chain != markMasqChain && chain != postroutingChain
}

// jump is a rule that leads from one chain to another. R identifies the rule in its table.
type jump[R any] struct {
	from, to string
	builtin  bool // from is a chain that packets enter without a jump
	rule     R
}

// removal is what to remove from one table.
type removal[R any] struct {
	rules  []R      // to delete first: they lead from chains that stay into chains that go
	chains []string // to flush, and then to delete
	kept   map[string]string
}

// planRemoval decides which of a table's chains to remove. A chain that another program's rule
// leads to stays, with all that it needs: CNI plugins may be configured to use KUBE-MARK-MASQ.
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
		if _, stays := r.kept[markMasqChain]; stays { // it only marks; the mark has its effect in this chain
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

// isKubeProxys reports whether kube-proxy has put the rule into a built-in chain.
func (j jump[R]) isKubeProxys() bool { return j.builtin && slices.Contains(entryChains, j.to) }

// report adds what was done to a table.
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
