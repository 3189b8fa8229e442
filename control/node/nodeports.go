// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// NodePortAddresses are the node's addresses on which NodePorts answer, as in kube-proxy's
// --nodeport-addresses: "primary", "all", or CIDRs.
type NodePortAddresses struct {
	all      bool
	prefixes []netip.Prefix
}

// ParseNodePortAddresses parses the flag's values. No value means primary.
func ParseNodePortAddresses(values []string) (NodePortAddresses, error) {
	var n NodePortAddresses
	for _, v := range values {
		switch v {
		case "primary":
			if len(values) > 1 {
				return n, fmt.Errorf("--nodeport-addresses: %q can't be combined with other values", v)
			}
		case "all":
			n.all = true
		default:
			p, err := netip.ParsePrefix(v)
			if err != nil {
				return n, fmt.Errorf("--nodeport-addresses: %q is neither a CIDR, nor \"primary\", nor \"all\"", v)
			}
			n.prefixes = append(n.prefixes, p.Masked())
		}
	}
	return n, nil
}

// choose filters the node's addresses. Without a Node object, which names the primary addresses, it
// returns all.
func (n NodePortAddresses) choose(all, primary []netip.Addr) []netip.Addr {
	if n.all || len(n.prefixes) == 0 && len(primary) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool {
		if len(n.prefixes) == 0 {
			return !slices.Contains(primary, a)
		}
		return !slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// CIDRs lists the addresses of one family that NodePorts answer on, in the library's form, where an
// empty list means all addresses. any is false if NodePorts answer on none.
func (n NodePortAddresses) CIDRs(family maps.Family, primary []netip.Addr) (list []string, any bool) {
	if n.all || len(n.prefixes) == 0 && len(primary) == 0 {
		return nil, true
	}
	prefixes := n.prefixes
	if len(prefixes) == 0 {
		for _, a := range primary {
			prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range prefixes {
		if maps.FamilyOf(p.Addr()) == family {
			list = append(list, p.String())
		}
	}
	return list, len(list) > 0
}
