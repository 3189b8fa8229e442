// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// pooledIP is an address that a Service has of a pool.
type pooledIP struct {
	Address netip.Addr `json:"address"`
	Pool    string     `json:"pool"` // kind and name, as pools.Ref spells them
	Since   time.Time  `json:"since,omitzero"`
}

func (e entry) held() []pools.Held {
	var held []pools.Held
	for _, ip := range e.LoadBalancerIPs {
		from, _ := pools.ParseRef(ip.Pool)
		held = append(held, pools.Held{Addr: ip.Address, From: from})
	}
	return held
}

// hold returns the entry with other addresses of pools. Addresses that it had before keep their time.
func (e entry) hold(held []pools.Held, now time.Time) entry {
	before := e.LoadBalancerIPs
	e.LoadBalancerIPs = nil
	for _, h := range held {
		ip := pooledIP{Address: h.Addr, Pool: h.From.String(), Since: now.UTC().Truncate(time.Second)}
		if i := slices.IndexFunc(before, func(b pooledIP) bool { return b.Address == h.Addr }); i >= 0 {
			ip.Since = before[i].Since
		}
		e.LoadBalancerIPs = append(e.LoadBalancerIPs, ip)
	}
	return e
}

// ingress returns the entry's addresses in the form of a Service's status.
func (e entry) ingress() []v1.LoadBalancerIngress {
	var list []v1.LoadBalancerIngress
	for _, ip := range e.LoadBalancerIPs {
		list = append(list, v1.LoadBalancerIngress{IP: ip.Address.String(), IPMode: ptr.To(v1.LoadBalancerIPModeVIP)})
	}
	return list
}

// wantsIngress reports whether a Service gets its load balancer addresses from pools. Its manifest may give them
// instead.
func wantsIngress(s *v1.Service) bool {
	return s.Spec.Type == v1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0
}

// giveAddresses plans the addresses of pools for all Services together. Call it after all other decisions: a Service
// that was refused keeps its addresses.
func (a *allocator) giveAddresses(out *outcome, all roster) {
	set, namespaces := all.pools()
	in := pools.Input{Set: set, Namespaces: namespaces, Classes: a.classes}
	known := map[string]bool{}
	for _, s := range all.allServices() {
		name := s.Namespace + "/" + s.Name
		e, accepted := a.table.entries[name]
		if !accepted || len(out.refused[name]) > 0 {
			continue
		}
		known[name] = true
		service := pools.FromStatus(s)
		if len(service.Has) == 0 && !service.Foreign {
			service.Has = e.held()
		}
		in.Services = append(in.Services, service)
	}
	for _, name := range a.table.names() {
		for _, ip := range a.table.entries[name].LoadBalancerIPs {
			if !known[name] {
				in.Reserved = append(in.Reserved, ip.Address)
			}
		}
	}
	plan := pools.Make(in)
	for _, c := range plan.Changes {
		if s := all.wanted(c.String()); len(s.Status.LoadBalancer.Ingress) > 0 && len(c.Addresses) > 0 {
			continue // the manifest gives them
		}
		a.table.entries[c.String()] = a.table.entries[c.String()].hold(c.Addresses, a.now())
		a.changed()
		if !slices.Contains(out.decided, c.String()) {
			out.decided = append(out.decided, c.String())
		}
	}
	out.plan, out.addresses = plan, a.pooled(plan)
}

// pooled lists the addresses of a plan for the status.
func (a *allocator) pooled(plan pools.Plan) []status.Address {
	list := make([]status.Address, 0, len(plan.Addresses))
	for _, p := range plan.Addresses {
		at := status.Address{Address: p.Addr.String(), Pool: p.Pool.String(), PoolGone: p.Gone}
		for _, name := range p.Services {
			at.Services = append(at.Services, name.String())
			for _, ip := range a.table.entries[name.String()].LoadBalancerIPs {
				if ip.Address == p.Addr && (at.Since.IsZero() || ip.Since.Before(at.Since)) {
					at.Since = ip.Since
				}
			}
		}
		list = append(list, at)
	}
	return list
}

// addressProblems lists the problems of a plan, with the files of the objects.
func (s *state) addressProblems(plan pools.Plan) []status.Problem {
	var found []status.Problem
	for _, p := range plan.Problems {
		if d := s.index.inForce[objectKey{p.Object.Kind, p.Object.Namespace, p.Object.Name}]; d != nil {
			found = append(found, d.fault(p.Field, p.Message))
		}
	}
	return found
}

// pools implements roster. It evaluates the documents again when one of them has changed.
func (s *state) pools() (*pools.Set, map[string]labels.Set) {
	if s.set == nil {
		var documents []pools.Document
		s.namespaces = map[string]labels.Set{}
		for key, d := range s.index.inForce {
			switch object := d.object.(type) {
			case pools.Document:
				documents = append(documents, object)
			case *v1.Namespace:
				s.namespaces[key.name] = object.Labels
			}
		}
		s.set = pools.NewSet(documents)
	}
	return s.set, s.namespaces
}

// allServices implements roster.
func (s *state) allServices() []*v1.Service {
	var all []*v1.Service
	for key, d := range s.index.inForce {
		if key.kind == kindService {
			all = append(all, objectOf[v1.Service](d))
		}
	}
	return all
}

func validatePooled(ips []pooledIP) error {
	for _, ip := range ips {
		if !ip.Address.IsValid() || ip.Address.Zone() != "" || ip.Address.Is4In6() {
			return fmt.Errorf("loadBalancerIPs: %q is not an address", ip.Address)
		}
		if _, ok := pools.ParseRef(ip.Pool); !ok {
			return fmt.Errorf("loadBalancerIPs: %q is not a pool", ip.Pool)
		}
	}
	return nil
}
