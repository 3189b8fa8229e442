// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Service is a Service with the addresses that its status gives.
type Service struct {
	*v1.Service
	Has []Held
	// Foreign: its status has something that no pool gives, such as a host name.
	Foreign bool
}

// Held is an address that a Service has.
type Held struct {
	Addr netip.Addr
	// From is the pool that is recorded to have given it, which need not be there any more; zero: not recorded.
	From Ref
}

// ConditionType is the condition on a Service that records which pools its addresses are from. It stands beside
// the addresses in the status, so that nothing that replaces the object's metadata loses it.
const ConditionType = "AddressesFromPools"

// Reasons of the condition.
const (
	ReasonAllocated = "Allocated" // at the time of the condition's last transition
	ReasonAdopted   = "Adopted"   // another controller gave them before
)

// annotationFromPool is how MetalLB records its pool.
var annotationFromPool = []string{"metallb.io/ip-allocated-from-pool", "metallb.universe.tf/ip-allocated-from-pool"}

// FromStatus reads what a Service of a cluster has.
func FromStatus(s *v1.Service) Service {
	out := Service{Service: s}
	recorded := map[netip.Addr]Ref{}
	if c := Condition(s); c != nil {
		recorded = ParseRecord(c.Message)
	}
	metallb, byMetalLB := annotation(s, annotationFromPool)
	for _, i := range s.Status.LoadBalancer.Ingress {
		a, err := netip.ParseAddr(i.IP)
		if err != nil || i.IPMode != nil && *i.IPMode != v1.LoadBalancerIPModeVIP {
			out.Foreign = true
			continue
		}
		h := Held{Addr: a.Unmap(), From: recorded[a.Unmap()]}
		if h.From == (Ref{}) && byMetalLB {
			h.From = Ref{Kind: KindIPAddressPool, Name: metallb}
		}
		out.Has = append(out.Has, h)
	}
	return out
}

// Condition finds the record in the status of a Service; nil: there is none.
func Condition(s *v1.Service) *ConditionOf {
	for i := range s.Status.Conditions {
		if c := &s.Status.Conditions[i]; c.Type == ConditionType {
			return &ConditionOf{Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime.Time}
		}
	}
	return nil
}

// ConditionOf is what the condition says.
type ConditionOf struct {
	Reason, Message string
	Since           time.Time
}

const (
	recordSeparator = ", "
	recordFrom      = " from "
)

// Record spells for the condition which pools addresses are from. What is not recorded is left out.
func Record(held []Held) string {
	var parts []string
	for _, h := range held {
		if h.From != (Ref{}) {
			parts = append(parts, h.Addr.String()+recordFrom+h.From.String())
		}
	}
	return strings.Join(parts, recordSeparator)
}

// ParseRecord reads what Record has written, and passes over what it would not write.
func ParseRecord(s string) map[netip.Addr]Ref {
	all := map[netip.Addr]Ref{}
	for _, part := range strings.Split(s, recordSeparator) {
		addr, from, _ := strings.Cut(part, recordFrom)
		a, err := netip.ParseAddr(addr)
		ref, ok := ParseRef(from)
		if err == nil && ok {
			all[a] = ref
		}
	}
	return all
}

func (s *Service) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

func (s *Service) ref() Ref { return Ref{"Service", s.Namespace, s.Name} }

func (s *Service) has(a netip.Addr) bool {
	return slices.ContainsFunc(s.Has, func(h Held) bool { return h.Addr == a })
}

// families are those that the Service has addresses of, the first one first.
func (s *Service) families() []v1.IPFamily {
	all := slices.Clone(s.Spec.IPFamilies)
	if len(all) == 0 {
		for _, ip := range s.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil {
				all = append(all, familyOf(a))
			}
		}
	}
	if len(all) == 0 {
		all = []v1.IPFamily{v1.IPv4Protocol}
	}
	if s.policy() == v1.IPFamilyPolicySingleStack {
		return all[:1]
	}
	return all
}

func (s *Service) policy() v1.IPFamilyPolicy {
	if s.Spec.IPFamilyPolicy == nil {
		return v1.IPFamilyPolicySingleStack
	}
	return *s.Spec.IPFamilyPolicy
}

// compareServices is the order in which Services are served: those that have addresses, then the older ones.
func compareServices(a, b *Service) int {
	return cmp.Or(
		cmp.Compare(min(1, len(b.Has)), min(1, len(a.Has))),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}
