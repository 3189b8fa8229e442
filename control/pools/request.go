// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// The annotations by which a Service asks, each with the older name that is read as well.
var (
	annotationMetalLBIPs    = []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"}
	annotationMetalLBPool   = []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	annotationMetalLBShare  = []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"}
	annotationCiliumIPs     = []string{"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"}
	annotationCiliumShare   = []string{"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"}
	annotationCiliumAcross  = []string{"lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"}
	annotationsForDecisions = slices.Concat(annotationMetalLBIPs, annotationMetalLBPool, annotationMetalLBShare,
		annotationCiliumIPs, annotationCiliumShare, annotationCiliumAcross, annotationFromPool)
)

// Annotations are those of a Service that are read here.
func Annotations() []string { return slices.Clone(annotationsForDecisions) }

// annotation is the value under the first of some names that is there.
func annotation(s *v1.Service, names []string) (string, bool) {
	for _, name := range names {
		if value, ok := s.Annotations[name]; ok && value != "" {
			return value, true
		}
	}
	return "", false
}

func annotationField(s *v1.Service, names []string) string {
	for _, name := range names {
		if s.Annotations[name] != "" {
			return "metadata.annotations[" + name + "]"
		}
	}
	return ""
}

const fieldLoadBalancerIP = "spec.loadBalancerIP"

// request is what a Service asks for. With neither addresses nor a pool, it takes any.
type request struct {
	addresses []netip.Addr
	field     string // that asks for the addresses
	pool      string // name of a MetalLB pool
	poolField string
}

// fault is why a request can't be met.
type fault struct{ field, message string }

func requestOf(s *Service) (request, *fault) {
	var r request
	var f *fault
	if r.addresses, r.field, f = askedAddresses(s.Service); f != nil {
		return r, f
	}
	r.pool, _ = annotation(s.Service, annotationMetalLBPool)
	r.poolField = annotationField(s.Service, annotationMetalLBPool)
	return r, r.checkFamilies(s)
}

// askedAddresses puts together what the two products read: MetalLB its annotation or the field, Cilium its
// annotation and the field.
func askedAddresses(s *v1.Service) (all []netip.Addr, field string, f *fault) {
	cilium, err := parseList(s, annotationCiliumIPs)
	if err != nil {
		return nil, "", err
	}
	all, field = cilium, annotationField(s, annotationCiliumIPs)
	if ip := s.Spec.LoadBalancerIP; ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, "", &fault{fieldLoadBalancerIP, fmt.Sprintf("%q is not an IP address", ip)}
		}
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
		if field == "" {
			field = fieldLoadBalancerIP
		}
	}
	metallb, err := parseList(s, annotationMetalLBIPs)
	if err != nil || len(metallb) == 0 {
		return all, field, err
	}
	if len(all) > 0 && !sameAddresses(all, metallb) {
		return nil, "", &fault{annotationField(s, annotationMetalLBIPs),
			fmt.Sprintf("asks for other addresses than %s, and only one of the two can be meant", field)}
	}
	return metallb, annotationField(s, annotationMetalLBIPs), nil
}

func parseList(s *v1.Service, names []string) ([]netip.Addr, *fault) {
	value, ok := annotation(s, names)
	if !ok {
		return nil, nil
	}
	var all []netip.Addr
	for part := range strings.SplitSeq(value, ",") {
		a, err := parseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, &fault{annotationField(s, names), err.Error()}
		}
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all, nil
}

func sameAddresses(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// checkFamilies refuses addresses of a family that the Service does not have. Where it requires both, the addresses that it
// asks for in MetalLB's way must be of both, too: one alone would leave it half reachable.
func (r request) checkFamilies(s *Service) *fault {
	if len(r.addresses) == 0 {
		return nil
	}
	families := s.families()
	counts := map[v1.IPFamily]int{}
	for _, a := range r.addresses {
		counts[familyOf(a)]++
		if !slices.Contains(families, familyOf(a)) {
			return &fault{r.field, fmt.Sprintf("%s is %s, and the Service is not (spec.ipFamilies)", a, familyOf(a))}
		}
	}
	if !slices.Contains(metallbFields, r.field) {
		return nil
	}
	for f, n := range counts {
		if n > 1 {
			return &fault{r.field, fmt.Sprintf("more than one %s address", f)}
		}
	}
	if s.policy() == v1.IPFamilyPolicyRequireDualStack && len(counts) < len(families) {
		return &fault{r.field, "an address of each family is needed (spec.ipFamilyPolicy: RequireDualStack)"}
	}
	return nil
}

// metallbFields are where MetalLB's rules for requests hold.
var metallbFields = []string{
	"metadata.annotations[" + annotationMetalLBIPs[0] + "]", "metadata.annotations[" + annotationMetalLBIPs[1] + "]", fieldLoadBalancerIP,
}
