// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IPAddressPool is MetalLB's pool (metallb.io/v1beta1).
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   IPAddressPoolSpec `json:"spec"`
	Status json.RawMessage   `json:"status,omitempty"` // MetalLB's
}

// IPAddressPoolSpec is what people write.
type IPAddressPoolSpec struct {
	Addresses         []string           `json:"addresses"` // networks, or ranges as FIRST-LAST
	AutoAssign        *bool              `json:"autoAssign,omitempty"`
	AvoidBuggyIPs     bool               `json:"avoidBuggyIPs,omitempty"`
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// ServiceAllocation restricts a pool to some Services. A Service must be in one of the namespaces, if any are
// named or selected, and match one of the selectors of Services, if there are any.
type ServiceAllocation struct {
	Priority           int                    `json:"priority,omitempty"` // lowest first; 0 is last
	Namespaces         []string               `json:"namespaces,omitempty"`
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`
	ServiceSelectors   []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// L2Advertisement says which pools' addresses MetalLB announces on layer 2, and from where (metallb.io/v1beta1).
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   L2AdvertisementSpec `json:"spec,omitempty"`
	Status json.RawMessage     `json:"status,omitempty"`
}

// L2AdvertisementSpec is what people write. An empty list does not restrict.
type L2AdvertisementSpec struct {
	IPAddressPools         []string                `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector  `json:"ipAddressPoolSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector  `json:"nodeSelectors,omitempty"`
	Interfaces             []string                `json:"interfaces,omitempty"`
	ServiceSelectors       []metav1.LabelSelector  `json:"serviceSelectors,omitempty"`
	PreferredNodeSelectors []PreferredNodeSelector `json:"preferredNodeSelectors,omitempty"`
}

// PreferredNodeSelector gives nodes a weight from 1 to 100.
type PreferredNodeSelector struct {
	Weight     int32                `json:"weight"`
	Preference metav1.LabelSelector `json:"preference"`
}

// Ref is Document's.
func (p *IPAddressPool) Ref() Ref { return Ref{KindIPAddressPool, p.Namespace, p.Name} }

// Ref is Document's.
func (a *L2Advertisement) Ref() Ref { return Ref{KindL2Advertisement, a.Namespace, a.Name} }

// DeepCopyObject is runtime.Object's. The spec is not modified, and shared.
func (p *IPAddressPool) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// DeepCopyObject is runtime.Object's. The spec is not modified, and shared.
func (a *L2Advertisement) DeepCopyObject() runtime.Object {
	c := *a
	a.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// Validate is Document's.
func (p *IPAddressPool) Validate() field.ErrorList { return p.pool().faults }

// pool reads the pool. What of it is sound is there even if there are faults.
func (p *IPAddressPool) pool() *Pool {
	spec := field.NewPath("spec")
	pool := &Pool{
		Ref: p.Ref(), Labels: p.Labels, created: p.CreationTimestamp.Time, whole: true, addressField: "spec.addresses",
		auto: p.Spec.AutoAssign == nil || *p.Spec.AutoAssign, avoidBuggy: p.Spec.AvoidBuggyIPs,
	}
	if len(p.Spec.Addresses) == 0 {
		pool.faults = append(pool.faults, field.Required(spec.Child("addresses"), "a pool without addresses"))
	}
	for i, s := range p.Spec.Addresses {
		at := spec.Child("addresses").Index(i)
		r, err := parseAddresses(s)
		if err != nil {
			pool.faults = append(pool.faults, field.Invalid(at, s, err.Error()))
			continue
		}
		r.field = at.String()
		pool.ranges = append(pool.ranges, r)
	}
	if a := p.Spec.ServiceAllocation; a != nil {
		pool.restrict(a, spec.Child("serviceAllocation"))
	}
	return pool
}

// restrict takes over for which Services the pool is.
func (p *Pool) restrict(a *ServiceAllocation, at *field.Path) {
	p.pinned, p.priority = true, a.Priority
	if a.Priority < 0 {
		p.faults = append(p.faults, field.Invalid(at.Child("priority"), a.Priority, "must not be negative"))
	}
	p.namespaces = a.Namespaces
	p.namespaceSelectors = p.selectors(a.NamespaceSelectors, at.Child("namespaceSelectors"))
	p.inNamespaces = len(a.Namespaces)+len(a.NamespaceSelectors) > 0
	p.serviceSelectors = p.selectors(a.ServiceSelectors, at.Child("serviceSelectors"))
	p.selecting = len(a.ServiceSelectors) > 0
}

// parseAddresses reads a network or a range. Bits of a network's address beyond its length are ignored, as MetalLB does.
func parseAddresses(s string) (addresses, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return addresses{}, fmt.Errorf("neither a network (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)")
		}
		return network(p)
	}
	return span(strings.TrimSpace(first), strings.TrimSpace(last))
}

// Validate is Document's.
func (a *L2Advertisement) Validate() field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	for _, list := range []struct {
		name      string
		selectors []metav1.LabelSelector
	}{
		{"ipAddressPoolSelectors", a.Spec.IPAddressPoolSelectors}, {"nodeSelectors", a.Spec.NodeSelectors},
		{"serviceSelectors", a.Spec.ServiceSelectors},
	} {
		_, more := parseSelectors(list.selectors, spec.Child(list.name))
		errs = append(errs, more...)
	}
	for i, p := range a.Spec.PreferredNodeSelectors {
		at := spec.Child("preferredNodeSelectors").Index(i)
		if p.Weight < 1 || p.Weight > 100 {
			errs = append(errs, field.Invalid(at.Child("weight"), p.Weight, "must be from 1 to 100"))
		}
		_, more := parseSelector(&p.Preference, at.Child("preference"))
		errs = append(errs, more...)
	}
	for i, name := range a.Spec.Interfaces {
		if strings.TrimSpace(name) == "" {
			errs = append(errs, field.Required(spec.Child("interfaces").Index(i), "the name of a network interface"))
		}
	}
	return errs
}
