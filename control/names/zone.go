// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Zone is what the names of a cluster stand for. Its methods may be called concurrently.
type Zone struct {
	domain      string       // canonical, with a dot at the end
	nameservers []netip.Addr // at which the zone is served

	mu         sync.RWMutex // guards what follows
	services   map[key]*service
	slices     map[key][]*slice     // of a Service; they may come before it
	namespaces map[string]int       // how many Services there are in each
	holders    map[netip.Addr][]key // a Service for each cluster IP, and for each endpoint in a slice
	cidrs      []netip.Prefix       // that cluster IPs are allocated from
	serial     uint32               // of the SOA record: how many changes there were
}

// key names a Service.
type key struct{ namespace, name string }

// service is what answers need of a Service.
type service struct {
	ips      []netip.Addr
	ports    []port
	external string // externalName, canonical
	headless bool
	unready  bool // addresses that are not ready are published, too
}

type port struct {
	name, protocol string // in lower case
	number         uint16
}

// slice is what answers need of an EndpointSlice.
type slice struct {
	name      string
	ports     []port
	endpoints []endpoint
}

type endpoint struct {
	addr  netip.Addr
	host  string // the label that identifies it within its Service
	ready bool
}

// NewZone makes an empty zone of a cluster domain, such as "cluster.local", that is served at some addresses.
func NewZone(domain string, nameservers []netip.Addr) *Zone {
	return &Zone{
		domain: dns.CanonicalName(domain), nameservers: nameservers,
		services: map[key]*service{}, slices: map[key][]*slice{},
		namespaces: map[string]int{}, holders: map[netip.Addr][]key{}, serial: 1,
	}
}

// OnService follows a Service; a nil new one is a deletion.
func (z *Zone) OnService(old, new *v1.Service) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.serial++
	if old != nil {
		k := key{old.Namespace, old.Name}
		if was := z.services[k]; was != nil {
			z.release(k, was.ips)
			z.countNamespace(k.namespace, -1)
			delete(z.services, k)
		}
	}
	if new != nil {
		k := key{new.Namespace, new.Name}
		is := serviceOf(new)
		z.services[k] = is
		z.hold(k, is.ips)
		z.countNamespace(k.namespace, 1)
	}
}

// OnEndpointSlice follows an EndpointSlice; a nil new one is a deletion.
func (z *Zone) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.serial++
	if old != nil {
		k := ownerOf(old)
		if i := slices.IndexFunc(z.slices[k], func(s *slice) bool { return s.name == old.Name }); i >= 0 {
			z.release(k, z.slices[k][i].addrs())
			z.slices[k] = slices.Delete(z.slices[k], i, i+1)
		}
		if len(z.slices[k]) == 0 {
			delete(z.slices, k)
		}
	}
	if new != nil {
		k := ownerOf(new)
		is := sliceOf(new)
		z.slices[k] = append(z.slices[k], is)
		z.hold(k, is.addrs())
	}
}

// OnServiceCIDRs replaces the ranges of cluster IPs: there is no name for an address in them that no Service has.
func (z *Zone) OnServiceCIDRs(cidrs []netip.Prefix) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.cidrs = cidrs
}

func (z *Zone) hold(k key, addrs []netip.Addr) {
	for _, a := range addrs {
		z.holders[a] = append(z.holders[a], k)
	}
}

func (z *Zone) release(k key, addrs []netip.Addr) {
	for _, a := range addrs {
		if i := slices.Index(z.holders[a], k); i >= 0 {
			z.holders[a] = slices.Delete(z.holders[a], i, i+1)
		}
		if len(z.holders[a]) == 0 {
			delete(z.holders, a)
		}
	}
}

func (z *Zone) countNamespace(name string, n int) {
	if z.namespaces[name] += n; z.namespaces[name] == 0 {
		delete(z.namespaces, name)
	}
}

func ownerOf(s *discovery.EndpointSlice) key {
	return key{s.Namespace, s.Labels[discovery.LabelServiceName]}
}

func (s *slice) addrs() (all []netip.Addr) {
	for _, e := range s.endpoints {
		all = append(all, e.addr)
	}
	return all
}

// tolerateUnready is the annotation from before spec.publishNotReadyAddresses, which the specification names.
const tolerateUnready = "service.alpha.kubernetes.io/tolerate-unready-endpoints"

func serviceOf(s *v1.Service) *service {
	is := &service{
		headless: s.Spec.ClusterIP == v1.ClusterIPNone && s.Spec.Type != v1.ServiceTypeExternalName,
		unready:  s.Spec.PublishNotReadyAddresses || s.Annotations[tolerateUnready] == "true",
	}
	if s.Spec.Type == v1.ServiceTypeExternalName {
		is.external = dns.CanonicalName(s.Spec.ExternalName)
		return is
	}
	for _, text := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil { // not "None"
			is.ips = append(is.ips, a.Unmap())
		}
	}
	for _, p := range s.Spec.Ports {
		is.ports = append(is.ports, port{strings.ToLower(p.Name), strings.ToLower(string(p.Protocol)), uint16(p.Port)})
	}
	return is
}

func sliceOf(s *discovery.EndpointSlice) *slice {
	is := &slice{name: s.Name}
	for _, p := range s.Ports {
		if p.Port != nil {
			protocol := string(ptr.Deref(p.Protocol, v1.ProtocolTCP))
			is.ports = append(is.ports, port{strings.ToLower(ptr.Deref(p.Name, "")), strings.ToLower(protocol), uint16(*p.Port)})
		}
	}
	for _, e := range s.Endpoints {
		for _, text := range e.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue // the address type is FQDN
			}
			is.endpoints = append(is.endpoints, endpoint{a.Unmap(), hostOf(e, a.Unmap()), ptr.Deref(e.Conditions.Ready, true)})
		}
	}
	return is
}

// hostOf is the hostname of an endpoint. The specification leaves the name of one that has none to us: it is the
// address, as in CoreDNS.
func hostOf(e discovery.Endpoint, a netip.Addr) string {
	if host := ptr.Deref(e.Hostname, ""); host != "" {
		return strings.ToLower(host)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}
