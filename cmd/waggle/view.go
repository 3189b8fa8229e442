// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// The view of services in the maps. It needs no running agent.

type backendView struct {
	ID      uint32         `json:"id"`
	Service string         `json:"service"`
	Port    string         `json:"port,omitempty"`
	Address netip.AddrPort `json:"address"`
	Proto   string         `json:"protocol"`
	Local   bool           `json:"local"`
	Serving bool           `json:"serving"`
	Sets    []string       `json:"sets"` // that it is in; "kept" if it is in none, but serves the flows it has
	counted *traffic       // nil: not asked for
}

type frontendView struct {
	Kind     string         `json:"kind"`
	Address  netip.AddrPort `json:"address"`
	External []uint32       `json:"externalBackends"` // ids, as packets from outside choose
	Internal []uint32       `json:"internalBackends"`
	// Without backends packets are refused, unless the policy is that they be dropped.
	ExternalDrop bool `json:"externalDrop"`
	InternalDrop bool `json:"internalDrop"`
	// Only for clients in the port's source ranges.
	Guarded bool `json:"guarded,omitempty"`
}

type portView struct {
	ID        uint32         `json:"id"`
	Name      string         `json:"name,omitempty"`
	Proto     string         `json:"protocol"`
	IPFamily  string         `json:"ipFamily"`
	Frontends []frontendView `json:"frontends"`
	Backends  []backendView  `json:"backends"`
	kind      maps.Type
	// The clients that guarded frontends are for, and how long one is remembered.
	SourceRanges    []netip.Prefix `json:"sourceRanges,omitempty"`
	AffinitySeconds uint32         `json:"affinitySeconds,omitempty"`
	counted         *traffic       // nil: not asked for
}

type serviceView struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Type      string     `json:"type"`
	Pending   bool       `json:"pending,omitempty"` // a load balancer without an address yet
	Ports     []portView `json:"ports"`
}

// serviceName is empty for a service that is gone.
func serviceName(n maps.Name) string {
	if n == (maps.Name{}) {
		return ""
	}
	return n.Namespace + "/" + n.Name
}

// readBackends lists the backends in the maps with the names of their services.
func readBackends(p maps.Provider) ([]backendView, error) {
	names, err := maps.NewNames(p).All()
	if err != nil {
		return nil, err
	}
	backends, err := maps.ReadBackends(p)
	if err != nil {
		return nil, err
	}
	out := make([]backendView, 0, len(backends))
	for id, b := range backends {
		name := names[b.Service]
		out = append(out, backendView{
			ID:      id,
			Service: serviceName(name),
			Port:    name.Port,
			Address: netip.AddrPortFrom(b.Addr, b.Port),
			Proto:   maps.ProtoName(b.Proto),
			Local:   b.Local,
			Serving: b.Serving(),
			Sets:    setsOf(b),
		})
	}
	slices.SortFunc(out, func(a, b backendView) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port),
			a.Address.Compare(b.Address), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// setsOf names the sets of its service that a backend is in.
func setsOf(b maps.Backend) []string {
	sets := []string{}
	for _, s := range []struct {
		in   bool
		name string
	}{{b.InCluster, "cluster"}, {b.InLocal, "local"}, {b.Kept, "kept"}} {
		if s.in {
			sets = append(sets, s.name)
		}
	}
	return sets
}

// readPorts reads the service ports, without frontends and backends.
func readPorts(p maps.Provider) (map[uint32]maps.Name, map[uint32]*portView, error) {
	table := maps.NewNames(p)
	names, err := table.All()
	if err != nil {
		return nil, nil, err
	}
	types, err := table.Types()
	if err != nil {
		return nil, nil, err
	}
	sources, err := maps.NewSources(p).All()
	if err != nil {
		return nil, nil, err
	}
	ports := map[uint32]*portView{}
	for id, name := range names {
		ports[id] = &portView{
			ID: id, Name: name.Port, Proto: maps.ProtoName(name.Proto), IPFamily: familyName(name.Family), kind: types[id],
			Frontends: []frontendView{}, Backends: []backendView{}, SourceRanges: sources[id],
		}
		slices.SortFunc(sources[id], netip.Prefix.Compare)
	}
	return names, ports, nil
}

// readServices assembles the services from the maps.
func readServices(p maps.Provider) ([]serviceView, error) {
	names, ports, err := readPorts(p)
	if err != nil {
		return nil, err
	}
	frontends, err := maps.NewServices(p).All()
	if err != nil {
		return nil, err
	}
	backends, err := maps.ReadBackends(p)
	if err != nil {
		return nil, err
	}
	for f, element := range frontends {
		port := ports[element.ID]
		if port == nil {
			continue
		}
		view := frontendView{
			Kind: element.Kind.String(), Address: netip.AddrPortFrom(f.Addr, f.Port),
			ExternalDrop: element.ExternalDrop, InternalDrop: element.InternalDrop,
			Guarded: element.SourceRanges,
		}
		port.AffinitySeconds = element.Affinity
		if view.External, err = maps.ReadSlots(p, element.External); err != nil {
			return nil, err
		}
		if view.Internal, err = maps.ReadSlots(p, element.Internal); err != nil {
			return nil, err
		}
		port.Frontends = append(port.Frontends, view)
	}
	for id, b := range backends {
		if port := ports[b.Service]; port != nil && b.Serving() {
			port.Backends = append(port.Backends, backendView{
				ID: id, Service: serviceName(names[b.Service]), Port: port.Name,
				Address: netip.AddrPortFrom(b.Addr, b.Port),
				Proto:   port.Proto, Local: b.Local, Serving: b.Serving(), Sets: setsOf(b),
			})
		}
	}
	return groupServices(names, ports), nil
}

func familyName(f maps.Family) string {
	if f == maps.IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// groupServices puts the ports of one service together, of both families.
func groupServices(names map[uint32]maps.Name, ports map[uint32]*portView) []serviceView {
	byName := map[[2]string]*serviceView{}
	for id, port := range ports {
		slices.SortFunc(port.Frontends, func(a, b frontendView) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Address.Compare(b.Address))
		})
		slices.SortFunc(port.Backends, func(a, b backendView) int { return a.Address.Compare(b.Address) })
		key := [2]string{names[id].Namespace, names[id].Name}
		if byName[key] == nil {
			byName[key] = &serviceView{Namespace: key[0], Name: key[1]}
		}
		byName[key].Ports = append(byName[key].Ports, *port)
	}
	out := []serviceView{}
	for _, s := range byName {
		slices.SortFunc(s.Ports, func(a, b portView) int {
			return cmp.Or(cmp.Compare(a.IPFamily, b.IPFamily), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Proto, b.Proto))
		})
		s.Type, s.Pending = typeOf(s.Ports)
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b serviceView) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// typeOf derives the type of a service from its frontends and ports. pending: it is a load balancer
// that waits for its address.
func typeOf(ports []portView) (kind string, pending bool) {
	kind = "ClusterIP"
	for _, port := range ports {
		for _, f := range port.Frontends {
			if f.Kind == "LoadBalancer" || f.Kind == "NodePort" && kind == "ClusterIP" {
				kind = f.Kind
			}
		}
		if port.kind != maps.PlainType {
			kind = "LoadBalancer"
			pending = pending || port.kind == maps.PendingLoadBalancer
		}
	}
	return kind, pending
}
