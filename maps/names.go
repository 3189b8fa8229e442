// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"errors"
	"fmt"

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

// Names is the table of the services' names, by id.
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
func (n *Names) Put(id uint32, name Name) error {
	c := bpf.ServiceName{Proto: name.Proto, Family: uint8(name.Family)}
	setChars(c.Namespace[:], name.Namespace)
	setChars(c.Name[:], name.Name)
	setChars(c.Port[:], name.Port)
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
		out[id] = Name{
			Namespace: chars(c.Namespace[:]),
			Name:      chars(c.Name[:]),
			Port:      chars(c.Port[:]),
			Proto:     c.Proto,
			Family:    Family(c.Family),
		}
	})
	return out, err
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
