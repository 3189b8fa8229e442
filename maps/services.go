// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Frontend is where a service answers. NodePorts have the unspecified address.
type Frontend struct {
	Addr  netip.Addr
	Port  uint16
	Proto uint8 // IPPROTO_*
}

func (f Frontend) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), ProtoName(f.Proto))
}

// Kind is the kind of a frontend.
type Kind uint32

// The kinds of frontends.
const (
	ClusterIP    = Kind(bpf.ServiceClusterIP)
	NodePort     = Kind(bpf.ServiceNodePort)
	ExternalIP   = Kind(bpf.ServiceExternalIP)
	LoadBalancer = Kind(bpf.ServiceLoadBalancer)
)

const anyKind = ClusterIP | NodePort | ExternalIP | LoadBalancer

func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case NodePort:
		return "NodePort"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancer:
		return "LoadBalancer"
	}
	return fmt.Sprintf("kind %d", uint32(k))
}

// Service is what a frontend leads to.
type Service struct {
	ID           uint32
	Kind         Kind
	External     Block // for packets from outside the node
	Internal     Block // for its pods and processes
	ExternalDrop bool  // endpoints exist, but the policy allows none of them here
	InternalDrop bool
	// The block holds the Local set, not the Cluster set.
	ExternalLocal, InternalLocal bool
	SourceRanges                 bool   // only for clients in the service's SourceRanges
	Affinity                     uint32 // seconds that a client is remembered for; 0: not at all
}

// Services is the table of frontends, of both families.
type Services struct {
	p Provider
}

// NewServices opens the table.
func NewServices(p Provider) *Services { return &Services{p} }

// Put publishes a frontend. This one write makes a change visible, all at once.
func (s *Services) Put(f Frontend, svc Service) error {
	c := svc.encode()
	if err := putPick(s.p, "services", FamilyOf(f.Addr), f.key(), &c); err != nil {
		return fmt.Errorf("frontend %s: %w", f, err)
	}
	return nil
}

// Delete removes a frontend. It returns no error for one that isn't there.
func (s *Services) Delete(f Frontend) error {
	beforeWrite()
	err := pick(s.p, "services", FamilyOf(f.Addr)).Delete(f.key())
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("frontend %s: %w", f, err)
	}
	return nil
}

// Get reads a frontend. ok reports whether it is there.
func (s *Services) Get(f Frontend) (svc Service, ok bool, err error) {
	var c bpf.Service
	err = pick(s.p, "services", FamilyOf(f.Addr)).Lookup(f.key(), &c)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Service{}, false, nil
	}
	if err != nil {
		return Service{}, false, fmt.Errorf("reading frontend %s: %w", f, err)
	}
	return decodeService(&c), true, nil
}

// Frontends returns the frontends in the maps, read as keys does.
func (s *Services) Frontends() iter.Seq2[Frontend, error] {
	return func(yield func(Frontend, error) bool) {
		for k, err := range keys[bpf.ServiceKey4, bpf.Service](s.p.Map("services4"), "services4") {
			if !yield(Frontend{addr4(k.Addr), netPort(k.Port), k.Proto}, err) {
				return
			}
		}
		for k, err := range keys[bpf.ServiceKey6, bpf.Service](s.p.Map("services6"), "services6") {
			if !yield(Frontend{addr6(k.Addr), netPort(k.Port), k.Proto}, err) {
				return
			}
		}
	}
}

// All reads every frontend.
func (s *Services) All() (map[Frontend]Service, error) {
	out := map[Frontend]Service{}
	err4 := each(s.p.Map("services4"), "services4", func(k bpf.ServiceKey4, c *bpf.Service) {
		out[Frontend{addr4(k.Addr), netPort(k.Port), k.Proto}] = decodeService(c)
	})
	err6 := each(s.p.Map("services6"), "services6", func(k bpf.ServiceKey6, c *bpf.Service) {
		out[Frontend{addr6(k.Addr), netPort(k.Port), k.Proto}] = decodeService(c)
	})
	return out, errors.Join(err4, err6)
}

func (f Frontend) key() any {
	if FamilyOf(f.Addr) == IPv4 {
		return &bpf.ServiceKey4{Addr: word4(f.Addr), Port: netPort(f.Port), Proto: f.Proto}
	}
	return &bpf.ServiceKey6{Addr: words6(f.Addr), Port: netPort(f.Port), Proto: f.Proto}
}

func (s Service) encode() bpf.Service {
	c := bpf.Service{Id: s.ID, Flags: uint32(s.Kind), Affinity: s.Affinity}
	c.External.First, c.External.Count = s.External.First, s.External.Count
	c.Internal.First, c.Internal.Count = s.Internal.First, s.Internal.Count
	for _, f := range [...]struct {
		set  bool
		flag uint32
	}{
		{s.ExternalDrop, bpf.ServiceExternalDrop}, {s.InternalDrop, bpf.ServiceInternalDrop},
		{s.ExternalLocal, bpf.ServiceExternalLocal}, {s.InternalLocal, bpf.ServiceInternalLocal},
		{s.SourceRanges, bpf.ServiceSourceRanges},
	} {
		if f.set {
			c.Flags |= f.flag
		}
	}
	return c
}

func decodeService(c *bpf.Service) Service {
	return Service{
		ID:            c.Id,
		Kind:          Kind(c.Flags) & anyKind,
		External:      Block{c.External.First, c.External.Count},
		Internal:      Block{c.Internal.First, c.Internal.Count},
		ExternalDrop:  c.Flags&bpf.ServiceExternalDrop != 0,
		InternalDrop:  c.Flags&bpf.ServiceInternalDrop != 0,
		ExternalLocal: c.Flags&bpf.ServiceExternalLocal != 0,
		InternalLocal: c.Flags&bpf.ServiceInternalLocal != 0,
		SourceRanges:  c.Flags&bpf.ServiceSourceRanges != 0,
		Affinity:      c.Affinity,
	}
}
