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

// Type is what a service port's frontends don't tell of the type of its Service.
type Type uint8

// The types. Frontends tell the rest: node ports and external addresses.
const (
	PlainType           Type = iota
	LoadBalancerType         // LoadBalancer, with an address, be it one that is not served here
	PendingLoadBalancer      // LoadBalancer, without an address yet
)

// Names is the table of the services' names and types, by id.
type Names struct {
	m   *ebpf.Map
	ids *IDs
}

// NewNames opens the table and takes all ids as free.
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

// Delete forgets a service's name.
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

// Named are the ids in the map, see keys.
func (n *Names) Named() iter.Seq2[uint32, error] {
	return keys[uint32, bpf.ServiceName](n.m, "service_names")
}

// encode puts the type into the last byte, which the datapath reads as little as the rest.
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

// ProtoName spells an IP protocol as Kubernetes does.
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
