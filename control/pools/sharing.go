// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// sharingKeys are what Services must have in common that share an address, one for each product whose annotation
// there is. Keys of different products differ.
func sharingKeys(s *v1.Service) []string {
	var keys []string
	if key, ok := annotation(s, annotationMetalLBShare); ok {
		keys = append(keys, GroupMetalLB+"/"+key)
	}
	if key, ok := annotation(s, annotationCiliumShare); ok {
		keys = append(keys, GroupCilium+"/"+key)
	}
	return keys
}

// unshareable says why two Services may not have one address; empty: they may. It is the same both ways.
func unshareable(a, b *v1.Service) string {
	mine, others := sharingKeys(a), sharingKeys(b)
	common := slices.DeleteFunc(slices.Clone(mine), func(key string) bool { return !slices.Contains(others, key) })
	switch {
	case len(mine) == 0:
		return "it has no sharing key"
	case len(others) == 0:
		return "that one has no sharing key"
	case len(common) == 0:
		return "their sharing keys differ"
	}
	// Cilium's key is for one namespace, MetalLB's for all.
	if !slices.ContainsFunc(common, func(key string) bool { return strings.HasPrefix(key, GroupMetalLB+"/") }) && !acrossNamespaces(a, b) {
		return "it is in another namespace, and " + annotationCiliumAcross[0] + " does not allow that in both"
	}
	for _, p := range a.Spec.Ports {
		if slices.ContainsFunc(b.Spec.Ports, func(q v1.ServicePort) bool { return p.Port == q.Port && protocolOf(p) == protocolOf(q) }) {
			return fmt.Sprintf("both have port %d/%s", p.Port, protocolOf(p))
		}
	}
	if isLocal(a) != isLocal(b) {
		return "their externalTrafficPolicy differs"
	}
	if isLocal(a) && !maps.Equal(a.Spec.Selector, b.Spec.Selector) {
		return "with externalTrafficPolicy Local they must have the same selector"
	}
	return ""
}

func protocolOf(p v1.ServicePort) v1.Protocol {
	if p.Protocol == "" {
		return v1.ProtocolTCP
	}
	return p.Protocol
}

func isLocal(s *v1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
}

func acrossNamespaces(a, b *v1.Service) bool {
	return a.Namespace == b.Namespace || allows(a, b.Namespace) && allows(b, a.Namespace)
}

func allows(s *v1.Service, namespace string) bool {
	value, _ := annotation(s, annotationCiliumAcross)
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part == "*" || part != "" && part == namespace {
			return true
		}
	}
	return false
}
