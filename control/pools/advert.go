// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"net/netip"
	"regexp"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Advert is a document that has addresses announced on layer 2: those of which Services, and from which nodes and devices.
type Advert struct {
	Ref
	pools         []string          // names of IPAddressPools
	poolSelectors []labels.Selector // by the labels of IPAddressPools
	services      []labels.Selector // nil: all
	nodes         []labels.Selector // nil: all
	preferred     []preference
	names         []string // of devices
	patterns      []*regexp.Regexp
	balancers     bool // addresses of load balancers
	external      bool // spec.externalIPs
}

type preference struct {
	weight int32
	nodes  labels.Selector
}

// advert reads a document without faults.
func (a *L2Advertisement) advert() *Advert {
	spec := &a.Spec
	out := &Advert{Ref: a.Ref(), pools: spec.IPAddressPools, names: spec.Interfaces, balancers: true}
	out.poolSelectors, _ = parseSelectors(spec.IPAddressPoolSelectors, nil)
	out.services, _ = parseSelectors(spec.ServiceSelectors, nil)
	out.nodes, _ = parseSelectors(spec.NodeSelectors, nil)
	for _, p := range spec.PreferredNodeSelectors {
		if s, _ := parseSelector(&p.Preference, nil); s != nil {
			out.preferred = append(out.preferred, preference{p.Weight, s})
		}
	}
	return out
}

// advert reads a document without faults.
func (a *CiliumL2Announcement) advert() *Advert {
	spec := &a.Spec
	out := &Advert{Ref: a.Ref(), balancers: spec.LoadBalancerIPs, external: spec.ExternalIPs}
	one := func(s *metav1.LabelSelector) []labels.Selector {
		if s == nil {
			return nil
		}
		selectors, _ := parseSelectors([]metav1.LabelSelector{*s}, nil)
		return selectors
	}
	out.services, out.nodes = one(spec.ServiceSelector), one(spec.NodeSelector)
	for _, pattern := range spec.Interfaces {
		if re, err := regexp.Compile(pattern); err == nil {
			out.patterns = append(out.patterns, re)
		}
	}
	return out
}

// Adverts are the documents that have an address of a Service announced. MetalLB's are for addresses of IPAddressPools,
// Cilium's for any.
func (s *Set) Adverts(svc *v1.Service, h Held) (found []*Advert) {
	for _, a := range s.adverts {
		if a.balancers && a.selects(svc) && (a.Kind == KindCiliumL2Announcement || a.hasPool(s.Find(h.Addr), h.From)) {
			found = append(found, a)
		}
	}
	return found
}

// Announces reports whether there is a document of a kind that has addresses announced.
func (s *Set) Announces(kind string) bool {
	return slices.ContainsFunc(s.adverts, func(a *Advert) bool { return a.Kind == kind })
}

// ExternalAdverts are the documents that have an external IP of a Service announced.
func (s *Set) ExternalAdverts(svc *v1.Service) (found []*Advert) {
	for _, a := range s.adverts {
		if a.external && a.selects(svc) {
			found = append(found, a)
		}
	}
	return found
}

func (a *Advert) selects(svc *v1.Service) bool {
	of := labels.Set(svc.Labels)
	if a.Kind == KindCiliumL2Announcement {
		of = labels.Merge(of, labels.Set{keyServiceNamespace: svc.Namespace, keyServiceName: svc.Name})
	}
	return matchesAny(a.services, of)
}

// hasPool reports whether the document is for addresses of a pool: of the one that has the address now, or of the one that
// gave it where none has it any more.
func (a *Advert) hasPool(pool *Pool, from Ref) bool {
	var of labels.Set
	if pool != nil {
		from, of = pool.Ref, pool.Labels
	}
	if from.Kind != KindIPAddressPool {
		return false
	}
	if len(a.pools) == 0 && len(a.poolSelectors) == 0 {
		return true
	}
	return slices.Contains(a.pools, from.Name) ||
		slices.ContainsFunc(a.poolSelectors, func(s labels.Selector) bool { return s.Matches(of) })
}

func matchesAny(selectors []labels.Selector, of labels.Set) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(of) })
}

// SelectsNode reports whether a node with these labels announces by the document.
func (a *Advert) SelectsNode(of labels.Set) bool { return matchesAny(a.nodes, of) }

// Weight is what the document prefers a node with these labels by; the highest goes first.
func (a *Advert) Weight(of labels.Set) (sum int32) {
	for _, p := range a.preferred {
		if p.nodes.Matches(of) {
			sum += p.weight
		}
	}
	return sum
}

// ListsDevices reports whether the document names devices. If not, the ones with the address's subnet are meant.
func (a *Advert) ListsDevices() bool { return len(a.names)+len(a.patterns) > 0 }

// HasDevice reports whether the document names a device.
func (a *Advert) HasDevice(name string) bool {
	return slices.Contains(a.names, name) ||
		slices.ContainsFunc(a.patterns, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// ExternalIPs are those of a Service.
func ExternalIPs(svc *v1.Service) (ips []netip.Addr) {
	for _, s := range svc.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(s); err == nil {
			ips = append(ips, a.Unmap())
		}
	}
	return ips
}
