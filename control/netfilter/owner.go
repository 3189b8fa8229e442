// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"slices"
	"strings"
)

// others are prefixes of the names of chains that Kubernetes, CNI plugins and container runtimes make
// for their own purposes.
var others = []string{
	"KUBE-", "cali-", "CILIUM_", "OLD_CILIUM_", "FLANNEL-", "CNI-", "ANTREA-", "WEAVE-", "AWS-",
	"DOCKER", "NETAVARK", "LIBVIRT_",
}

// otherTables are tables of such programs.
var otherTables = []string{"kube-proxy", "waggle-takeover", "cni_hostport", "cni_plugins_masquerade", "kube-router", "calico", "antctl", "netavark"}

func isOthers(chain string) bool {
	return slices.ContainsFunc(others, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

// Filters reports whether the owner's rules in a chain, or in chains that it leads to, would drop or
// mark some of these packets, or pass them to a process. The chain's policy counts unless another
// program has chains in the same table, and so may have set it.
func (c *Chain) Filters(packets []Packet) (bool, error) {
	if slices.Contains(otherTables, c.Table) {
		return false, nil
	}
	for i := range packets {
		if !c.concerns(&packets[i]) {
			continue
		}
		w := walk{packet: &packets[i]}
		goesOn, err := w.enter(c, 0)
		if err != nil {
			return false, err
		}
		if w.filters || goesOn && c.Drops && !c.table.shared() {
			return true, nil
		}
	}
	return false, nil
}

// shared reports whether other programs have chains in a table.
func (t *table) shared() bool {
	for name := range t.chains {
		if isOthers(name) {
			return true
		}
	}
	return false
}

// walk follows a packet through the owner's rules.
type walk struct {
	packet  *Packet
	filters bool
}

// enter reports whether the packet may reach the end of the chain.
func (w *walk) enter(c *Chain, depth int) (goesOn bool, err error) {
	rules, err := c.rules()
	if err != nil || depth > maxDepth {
		return true, err
	}
	for _, r := range rules {
		applies, does := r(w.packet)
		if applies == no {
			continue
		}
		last := next
		for _, a := range does {
			last = a.kind
			w.filters = w.filters || a.kind == drop || a.kind == askFor || a.kind == mark
			if a.kind != jumpTo && a.kind != goTo || isOthers(a.chain) || c.table.chains[a.chain] == nil {
				continue
			}
			if _, err := w.enter(c.table.chains[a.chain], depth+1); err != nil || w.filters {
				return true, err
			}
		}
		if w.filters {
			return true, nil
		}
		if applies == yes && (last == accept || last == back || last == goTo) {
			return last != accept, nil
		}
	}
	return true, nil
}
