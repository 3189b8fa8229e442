// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// NextHops is the table of next hops that flows use. The datapath makes its elements; the agent
// only updates them when a neighbour changes. It is safe for concurrent use.
type NextHops struct {
	p Provider

	mu     sync.Mutex
	memory *ebpf.Memory
}

// NewNextHops opens the table.
func NewNextHops(p Provider) *NextHops { return &NextHops{p: p} }

// NextHop is an element of the table.
type NextHop struct {
	Ifindex    int
	Neighbour  netip.Addr
	MAC        net.HardwareAddr // nil: the neighbour is not resolved
	MTU        int              // of the route, in bytes; 0: not known
	Generation uint32           // of routes, as in the map runtime
}

// SetNeighbour makes all flows by way of a neighbour use its MAC. nil: none, until the kernel has
// resolved the neighbour and the datapath looks it up.
func (n *NextHops) SetNeighbour(ifindex int, addr netip.Addr, mac net.HardwareAddr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.memory == nil {
		memory, err := n.p.Map("nexthops").Memory()
		if err != nil {
			return fmt.Errorf("the map nexthops: %w", err)
		}
		n.memory = memory
	}
	// Count first. A program may have asked the kernel before the change, and write its answer
	// after the walk below. It sees by the count that its answer is out of date.
	err := changeRuntime(n.p, func(state *bpf.RuntimeState) { state.Neighbours++ })
	if err != nil {
		return err
	}
	var element bpf.Nexthop
	size := int(unsafe.Sizeof(element))
	for at := 0; at+size <= int(n.memory.Size()); at += size {
		if _, err := n.memory.ReadAt(bytesOfNexthop(&element), int64(at)); err != nil {
			return fmt.Errorf("reading the map nexthops: %w", err)
		}
		if element.Generation == 0 || int(element.Hop.Ifindex) != ifindex || neighbourOf(&element) != addr {
			continue
		}
		if err := n.setMAC(at, &element, mac); err != nil {
			return err
		}
	}
	return nil
}

// setMAC writes the MAC and the flags, which are one word to the datapath.
func (n *NextHops) setMAC(at int, element *bpf.Nexthop, mac net.HardwareAddr) error {
	flags := element.Hop.Flags &^ bpf.HopResolved
	if len(mac) == len(element.Hop.Dmac) {
		flags |= bpf.HopResolved
	} else {
		mac = element.Hop.Dmac[:]
	}
	// Go copies 8 aligned bytes in one piece. So the datapath sees the word before or after, and
	// never a mixture.
	word := append(append([]byte(nil), mac...), byte(flags), byte(flags>>8))
	if _, err := n.memory.WriteAt(word, int64(at)); err != nil {
		return fmt.Errorf("writing the map nexthops: %w", err)
	}
	return nil
}

func bytesOfNexthop(e *bpf.Nexthop) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(e)), unsafe.Sizeof(*e))
}

func neighbourOf(e *bpf.Nexthop) netip.Addr {
	if e.Family == unix.AF_INET {
		return addr4(e.Addr[0])
	}
	return addr6(e.Addr)
}

// ReadNextHops reads the elements in use, by index.
func ReadNextHops(p Provider) (map[uint32]NextHop, error) {
	out := map[uint32]NextHop{}
	var index uint32
	var e bpf.Nexthop
	it := p.Map("nexthops").Iterate()
	for it.Next(&index, &e) {
		if e.Generation == 0 || e.Hop.Ifindex == 0 {
			continue
		}
		hop := NextHop{
			Ifindex: int(e.Hop.Ifindex), Neighbour: neighbourOf(&e), MTU: int(e.Hop.Mtu), Generation: e.Generation,
		}
		if e.Hop.Flags&bpf.HopResolved != 0 {
			hop.MAC = net.HardwareAddr(append([]byte(nil), e.Hop.Dmac[:]...))
		}
		out[index] = hop
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map nexthops: %w", err)
	}
	return out, nil
}
