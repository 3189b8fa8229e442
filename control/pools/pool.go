// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Pool is a pool of addresses, whichever document it is from.
type Pool struct {
	Ref
	Labels map[string]string // of the document, which announcements select pools by

	created      time.Time
	addressField string // of the document, for people
	ranges       []addresses
	faults       field.ErrorList // a pool that has any gives nothing
	conflict     *Pool           // whose addresses overlap this pool's, and which was there first: it gives, and this does not

	whole      bool // both addresses of a Service must come from this pool, as MetalLB has it
	auto       bool // it gives to Services that don't ask for it
	disabled   bool // it gives nothing
	avoidBuggy bool

	// Which Services it is for.
	pinned             bool // it goes before pools that are for all
	priority           int  // among the pinned: lowest first; 0 is last
	inNamespaces       bool
	namespaces         []string
	namespaceSelectors []labels.Selector
	selecting          bool
	serviceSelectors   []labels.Selector
}

// Special keys of Cilium's selectors of Services.
const (
	keyServiceNamespace = "io.kubernetes.service.namespace"
	keyServiceName      = "io.kubernetes.service.name"
)

func (p *Pool) selectors(list []metav1.LabelSelector, at *field.Path) []labels.Selector {
	selectors, errs := parseSelectors(list, at)
	p.faults = append(p.faults, errs...)
	return selectors
}

func parseSelectors(list []metav1.LabelSelector, at *field.Path) (selectors []labels.Selector, errs field.ErrorList) {
	for i := range list {
		selector, more := parseSelector(&list[i], at.Index(i))
		errs = append(errs, more...)
		if selector != nil {
			selectors = append(selectors, selector)
		}
	}
	return selectors, errs
}

// parseSelector returns nil where it fails.
func parseSelector(s *metav1.LabelSelector, at *field.Path) (labels.Selector, field.ErrorList) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(at, metav1.FormatLabelSelector(s), err.Error())}
	}
	return selector, nil
}

// rangeOf is the range that an address is in; nil: none.
func (p *Pool) rangeOf(a netip.Addr) *addresses {
	for i := range p.ranges {
		if p.ranges[i].contains(a) {
			return &p.ranges[i]
		}
	}
	return nil
}

// has reports whether an address is the pool's, be it that it is never given.
func (p *Pool) has(a netip.Addr) bool { return p.rangeOf(a) != nil }

// withholds says why an address of the pool is never given; empty: it may be.
func (p *Pool) withholds(a netip.Addr) string {
	if p.avoidBuggy && isBuggy(a) {
		return "spec.avoidBuggyIPs excludes it"
	}
	if r := p.rangeOf(a); r != nil && r.reserves(a) {
		return "spec.allowFirstLastIPs: No excludes it"
	}
	return ""
}

// idle says why the pool gives nothing to anybody; empty: it does.
func (p *Pool) idle() string {
	switch {
	case len(p.faults) > 0:
		return "is malformed (" + p.faults[0].Field + ")"
	case p.conflict != nil:
		return fmt.Sprintf("overlaps %s (%s)", p.conflict.Ref, p.addressField)
	case p.disabled:
		return "is disabled (spec.disabled)"
	}
	return ""
}

// refuses says why the pool is not for a Service; empty: it is. namespaces are the labels of namespaces.
func (p *Pool) refuses(s *v1.Service, namespaces map[string]labels.Set) string {
	if p.inNamespaces && !p.inNamespace(s.Namespace, namespaces[s.Namespace]) {
		return "is for other namespaces (spec.serviceAllocation)"
	}
	if !p.selecting {
		return ""
	}
	of := labels.Set(s.Labels)
	if !p.whole {
		of = labels.Merge(of, labels.Set{keyServiceNamespace: s.Namespace, keyServiceName: s.Name})
	}
	if !slices.ContainsFunc(p.serviceSelectors, func(sel labels.Selector) bool { return sel.Matches(of) }) {
		if p.whole {
			return "is for other Services (spec.serviceAllocation.serviceSelectors)"
		}
		return "is for other Services (spec.serviceSelector)"
	}
	return ""
}

func (p *Pool) inNamespace(name string, of labels.Set) bool {
	return slices.Contains(p.namespaces, name) ||
		slices.ContainsFunc(p.namespaceSelectors, func(s labels.Selector) bool { return s.Matches(of) })
}

// SelectsNamespaces reports whether the labels of namespaces decide whom the pool is for.
func (p *Pool) SelectsNamespaces() bool { return len(p.namespaceSelectors) > 0 }

// hasFamily reports whether the pool has addresses of a family.
func (p *Pool) hasFamily(f v1.IPFamily) bool {
	return slices.ContainsFunc(p.ranges, func(r addresses) bool { return familyOf(r.first) == f })
}

func familyOf(a netip.Addr) v1.IPFamily {
	if a.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}
