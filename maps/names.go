// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Name identifies a service port in one family, over restarts too.
type Name struct {
	Namespace, Name, Port string
	Proto                 uint8 // IPPROTO_*
	Family                Family
}

func (n Name) String() string {
	s := n.Namespace + "/" + n.Name
	if n.Port != "" {
		s += ":" + n.Port
	}
	return fmt.Sprintf("%s (%s, IPv%d)", s, ProtoName(n.Proto), n.Family)
}

// Type is the part of a Service's type that its frontends don't show.
type Type uint8

// The types. Frontends show the rest: node ports and external addresses.
const (
	PlainType           Type = iota
	LoadBalancerType         // LoadBalancer with an address, even one that is not served here
	PendingLoadBalancer      // LoadBalancer, without an address yet
)

// Names is the table of the services' names and types, by id.
type Names struct {
	m   *ebpf.Map
	ids *IDs
}

// NewNames opens the table. It takes all ids as free: see IDs.Reserve.
func NewNames(p Provider) *Names {
	m := p.Map("service_names")
	return &Names{m: m, ids: NewIDs("service", m.MaxEntries())}
}

// IDs is the allocator of service ids.
func (n *Names) IDs() *IDs { return n.ids }

// Put names a service.
func (n *Names) Put(id uint32, name Name, t Type) error {
	c := name.encode(t)
	if err := put(n.m, "service_names", id, &c); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	return nil
}

// Delete removes a service's name.
func (n *Names) Delete(id uint32) error {
	beforeWrite()
	if err := n.m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("name of service %d: %w", id, err)
	}
	return nil
}

// All reads every name.
func (n *Names) All() (map[uint32]Name, error) {
	out := map[uint32]Name{}
	err := each(n.m, "service_names", func(id uint32, c *bpf.ServiceName) {
		out[id] = decodeName(c)
	})
	return out, err
}

// Types reads the types of all services.
func (n *Names) Types() (map[uint32]Type, error) {
	out := map[uint32]Type{}
	err := each(n.m, "service_names", func(id uint32, c *bpf.ServiceName) {
		out[id] = Type(c.Pad)
	})
	return out, err
}

// Has reports whether a service has any name.
func (n *Names) Has(id uint32) (bool, error) {
	var c bpf.ServiceName
	return n.read(id, &c)
}

// Holds reports whether a service's name is as Put would leave it.
func (n *Names) Holds(id uint32, name Name, t Type) (bool, error) {
	var have bpf.ServiceName
	ok, err := n.read(id, &have)
	return ok && have == name.encode(t), err
}

func (n *Names) read(id uint32, into *bpf.ServiceName) (ok bool, err error) {
	err = n.m.Lookup(id, into)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the name of service %d: %w", id, err)
	}
	return true, nil
}

// Named returns the ids in the map, read as keys does.
func (n *Names) Named() iter.Seq2[uint32, error] {
	return keys[uint32, bpf.ServiceName](n.m, "service_names")
}

// encode puts the type into the last byte. The datapath does not read the map.
func (n Name) encode(t Type) bpf.ServiceName {
	c := bpf.ServiceName{Proto: n.Proto, Family: uint8(n.Family), Pad: uint8(t)}
	setChars(c.Namespace[:], n.Namespace)
	setChars(c.Name[:], n.Name)
	setChars(c.Port[:], n.Port)
	return c
}

func decodeName(c *bpf.ServiceName) Name {
	return Name{
		Namespace: chars(c.Namespace[:]),
		Name:      chars(c.Name[:]),
		Port:      chars(c.Port[:]),
		Proto:     c.Proto,
		Family:    Family(c.Family),
	}
}

func setChars(dst []int8, s string) {
	for i := 0; i < len(s) && i < len(dst); i++ {
		dst[i] = int8(s[i])
	}
}

func chars(src []int8) string {
	b := make([]byte, len(src))
	for i, c := range src {
		b[i] = byte(c)
	}
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b)
}

// ProtoName returns the name of an IP protocol as Kubernetes spells it.
func ProtoName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "TCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	case unix.IPPROTO_SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("%d", proto)
}
