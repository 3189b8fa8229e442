// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"encoding/json"
	"net/netip"
	"regexp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CiliumPool is Cilium's CiliumLoadBalancerIPPool (cilium.io/v2 and v2alpha1).
type CiliumPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   CiliumPoolSpec  `json:"spec"`
	Status json.RawMessage `json:"status,omitempty"` // Cilium's
}

// CiliumPoolSpec is what people write.
type CiliumPoolSpec struct {
	ServiceSelector   *metav1.LabelSelector `json:"serviceSelector,omitempty"` // nil: all Services
	AllowFirstLastIPs string                `json:"allowFirstLastIPs,omitempty"`
	Blocks            []CiliumBlock         `json:"blocks,omitempty"`
	Disabled          bool                  `json:"disabled,omitempty"`
}

// CiliumBlock is a network, or the addresses from Start to Stop; Start alone is one address.
type CiliumBlock struct {
	CIDR  string `json:"cidr,omitempty"`
	Start string `json:"start,omitempty"`
	Stop  string `json:"stop,omitempty"`
}

// CiliumL2Announcement is Cilium's CiliumL2AnnouncementPolicy (cilium.io/v2alpha1): which Services' addresses
// are announced on layer 2, and from where.
type CiliumL2Announcement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   CiliumL2AnnouncementSpec `json:"spec,omitempty"`
	Status json.RawMessage          `json:"status,omitempty"`
}

// CiliumL2AnnouncementSpec is what people write. A selector that is nil selects all.
type CiliumL2AnnouncementSpec struct {
	NodeSelector    *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	LoadBalancerIPs bool                  `json:"loadBalancerIPs,omitempty"`
	ExternalIPs     bool                  `json:"externalIPs,omitempty"`
	Interfaces      []string              `json:"interfaces,omitempty"` // regular expressions
}

// Values of allowFirstLastIPs. Unset means that they are allowed (Cilium 1.16 and later).
const (
	firstLastAllowed  = "Yes"
	firstLastReserved = "No"
)

// Ref is Document's.
func (p *CiliumPool) Ref() Ref { return Ref{Kind: KindCiliumPool, Name: p.Name} }

// Ref is Document's.
func (a *CiliumL2Announcement) Ref() Ref { return Ref{Kind: KindCiliumL2Announcement, Name: a.Name} }

// DeepCopyObject is runtime.Object's. The spec is not modified, and shared.
func (p *CiliumPool) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// DeepCopyObject is runtime.Object's. The spec is not modified, and shared.
func (a *CiliumL2Announcement) DeepCopyObject() runtime.Object {
	c := *a
	a.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// Validate is Document's.
func (p *CiliumPool) Validate() field.ErrorList { return p.pool().faults }

// pool reads the pool. What of it is sound is there even if there are faults.
func (p *CiliumPool) pool() *Pool {
	spec := field.NewPath("spec")
	pool := &Pool{
		Ref: p.Ref(), Labels: p.Labels, created: p.CreationTimestamp.Time, addressField: "spec.blocks",
		auto: true, disabled: p.Spec.Disabled,
	}
	switch p.Spec.AllowFirstLastIPs {
	case "", firstLastAllowed, firstLastReserved:
	default:
		pool.faults = append(pool.faults, field.NotSupported(spec.Child("allowFirstLastIPs"), p.Spec.AllowFirstLastIPs,
			[]string{firstLastAllowed, firstLastReserved}))
	}
	for i, b := range p.Spec.Blocks {
		at := spec.Child("blocks").Index(i)
		r, err := b.parse(at)
		if err != nil {
			pool.faults = append(pool.faults, err)
			continue
		}
		r.reserveEnds = b.CIDR != "" && p.Spec.AllowFirstLastIPs == firstLastReserved
		r.field = at.String()
		pool.ranges = append(pool.ranges, r)
	}
	if s := p.Spec.ServiceSelector; s != nil {
		selector, errs := parseSelector(s, spec.Child("serviceSelector"))
		pool.faults = append(pool.faults, errs...)
		pool.selecting = true
		if selector != nil {
			pool.serviceSelectors = append(pool.serviceSelectors, selector)
		}
	}
	return pool
}

// parse reads a block. A network goes before start and stop, as in Cilium.
func (b CiliumBlock) parse(at *field.Path) (addresses, *field.Error) {
	if b.CIDR != "" {
		p, err := netip.ParsePrefix(b.CIDR)
		if err != nil {
			return addresses{}, field.Invalid(at.Child("cidr"), b.CIDR, "not a network such as 192.0.2.0/24")
		}
		r, err := network(p)
		if err != nil {
			return addresses{}, field.Invalid(at.Child("cidr"), b.CIDR, err.Error())
		}
		return r, nil
	}
	if b.Start == "" {
		return addresses{}, field.Required(at, "cidr or start")
	}
	stop := b.Stop
	if stop == "" {
		stop = b.Start
	}
	r, err := span(b.Start, stop)
	if err != nil {
		return addresses{}, field.Invalid(at.Child("start"), b.Start, err.Error())
	}
	return r, nil
}

// Validate is Document's.
func (a *CiliumL2Announcement) Validate() field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	for name, s := range map[string]*metav1.LabelSelector{"nodeSelector": a.Spec.NodeSelector, "serviceSelector": a.Spec.ServiceSelector} {
		_, more := parseSelector(s, spec.Child(name))
		errs = append(errs, more...)
	}
	for i, pattern := range a.Spec.Interfaces {
		if _, err := regexp.Compile(pattern); err != nil {
			errs = append(errs, field.Invalid(spec.Child("interfaces").Index(i), pattern, err.Error()))
		}
	}
	return errs
}
