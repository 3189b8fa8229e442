// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"cmp"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/control/layer2"
	"github.com/waggle-lb/waggle/control/pools"
)

// Inputs are what a node's offers follow from.
type Inputs struct {
	// Services are those that may have addresses: of type LoadBalancer, or with external IPs. They are not modified.
	Services []*v1.Service
	// LocalReady reports whether a Service has a ready endpoint on the node.
	LocalReady func(types.NamespacedName) bool
	Node       *v1.Node // of this node; nil: there is none
	Set        *pools.Set
	Classes    pools.Classes
	Devices    []layer2.Device
	// Others are other programs that announce on this node, for people, by the kind of documents that they go by.
	Others map[string]string
}

// place is what a node can do for an address.
type place struct {
	Offer
	devices  []int         // on which it would answer
	services []*v1.Service // that have the address
	docs     []pools.Ref   // that have it announced
}

// evaluate finds out what the node offers: of Services that share an address, one that would do is enough.
func evaluate(in Inputs) map[netip.Addr]*place {
	all := map[netip.Addr]*place{}
	if in.Set == nil {
		return all
	}
	for _, svc := range in.Services {
		for addr, adverts := range announced(in, svc) {
			o := offerFor(in, svc, addr, adverts)
			at := all[addr]
			if at == nil {
				all[addr] = o
				continue
			}
			o.services = append(at.services, svc)
			o.docs = append(at.docs, o.docs...)
			if compareOffers(at.Offer, o.Offer) <= 0 {
				at.services, at.docs = o.services, o.docs
				continue
			}
			all[addr] = o
		}
	}
	for _, at := range all {
		slices.SortFunc(at.docs, func(a, b pools.Ref) int { return cmp.Compare(a.String(), b.String()) })
		at.docs = slices.Compact(at.docs)
	}
	return all
}

// announced are the addresses of a Service that documents have announced.
func announced(in Inputs, svc *v1.Service) map[netip.Addr][]*pools.Advert {
	found := map[netip.Addr][]*pools.Advert{}
	if svc.Spec.Type == v1.ServiceTypeLoadBalancer && in.Classes.Have(svc) {
		for _, h := range pools.FromStatus(svc).Has {
			if adverts := in.Set.Adverts(svc, h); len(adverts) > 0 {
				found[h.Addr] = adverts
			}
		}
	}
	if ips := pools.ExternalIPs(svc); len(ips) > 0 {
		if adverts := in.Set.ExternalAdverts(svc); len(adverts) > 0 {
			for _, a := range ips {
				found[a] = append(found[a], adverts...)
			}
		}
	}
	return found
}

// compareOffers: the better one goes first.
func compareOffers(a, b Offer) int {
	rank := func(o Offer) int {
		switch {
		case o.Not == Other: // no node answers then
			return 0
		case o.Not == Offered:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.Weight, a.Weight))
}

// offerFor is what the node can do for an address of one Service.
func offerFor(in Inputs, svc *v1.Service, addr netip.Addr, adverts []*pools.Advert) *place {
	at := &place{services: []*v1.Service{svc}}
	var of labels.Set
	if in.Node != nil {
		of = in.Node.Labels
		at.Last = in.Node.Spec.Unschedulable
	}
	selected, listed := false, false
	for _, a := range adverts {
		at.docs = append(at.docs, a.Ref)
		if who := in.Others[a.Kind]; who != "" {
			at.Offer = Offer{Not: Other, Note: who}
			return at
		}
		if !a.SelectsNode(of) {
			continue
		}
		selected = true
		at.Weight = max(at.Weight, a.Weight(of))
		listed = listed || a.ListsDevices()
		at.devices = append(at.devices, devicesFor(in.Devices, addr, a)...)
	}
	slices.Sort(at.devices)
	at.devices = slices.Compact(at.devices)
	_, excluded := of[v1.LabelNodeExcludeBalancers]
	switch {
	case excluded:
		at.Not = Excluded
	case !selected:
		at.Not = Selector
	case svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal && !in.LocalReady(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}):
		at.Not = Endpoint
	case len(at.devices) == 0:
		at.Not = Device
		if !listed {
			at.Note = "of the subnet"
		}
	case !slices.ContainsFunc(in.Devices, func(d layer2.Device) bool { return d.Carrier && slices.Contains(at.devices, d.Index) }):
		at.Not = Carrier
	}
	return at
}

// devicesFor are the devices on which a document has an address announced: those that it lists, or those with its subnet.
func devicesFor(devices []layer2.Device, addr netip.Addr, a *pools.Advert) (indexes []int) {
	if !a.ListsDevices() {
		devices = layer2.WithSubnet(devices, addr)
	}
	for _, d := range devices {
		if !a.ListsDevices() || a.HasDevice(d.Name) {
			indexes = append(indexes, d.Index)
		}
	}
	return indexes
}
