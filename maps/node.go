// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// NodeAddrs is the set of this node's addresses that NodePorts answer on.
type NodeAddrs struct {
	p Provider
}

// NewNodeAddrs opens the set.
func NewNodeAddrs(p Provider) *NodeAddrs { return &NodeAddrs{p} }

// All reads the set.
func (n *NodeAddrs) All() ([]netip.Addr, error) {
	var out []netip.Addr
	var k4 uint32
	var k6 bpf.Addr
	var one uint8
	it := n.p.Map("node_addrs4").Iterate()
	for it.Next(&k4, &one) {
		out = append(out, addr4(k4))
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map node_addrs4: %w", err)
	}
	it = n.p.Map("node_addrs6").Iterate()
	for it.Next(&k6, &one) {
		out = append(out, addr6(k6.Word))
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map node_addrs6: %w", err)
	}
	return out, nil
}

// Set makes the set what it should be: additions first, so that no address is missing meanwhile.
func (n *NodeAddrs) Set(want []netip.Addr) error {
	have, err := n.All()
	if err != nil {
		return err
	}
	stale := map[netip.Addr]bool{}
	for _, a := range have {
		stale[a] = true
	}
	for _, a := range want {
		delete(stale, a)
		if err := putPick(n.p, "node_addrs", FamilyOf(a), addrKey(a), uint8(1)); err != nil {
			return fmt.Errorf("node address %s: %w", a, err)
		}
	}
	for a := range stale {
		err := pick(n.p, "node_addrs", FamilyOf(a)).Delete(addrKey(a))
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("node address %s: %w", a, err)
		}
	}
	return nil
}

func addrKey(a netip.Addr) any {
	if FamilyOf(a) == IPv4 {
		return word4(a)
	}
	return &bpf.Addr{Word: words6(a)}
}

// BumpGeneration makes every flow ask the FIB again for its next hop.
func BumpGeneration(p Provider) error {
	return changeRuntime(p, func(state *bpf.RuntimeState) {
		if state.Generation++; state.Generation == 0 {
			state.Generation = 1
		}
	})
}

// changeRuntime changes the agent's members of the map runtime. The agent is its only writer.
func changeRuntime(p Provider, change func(*bpf.RuntimeState)) error {
	m := p.Map("runtime")
	var state bpf.RuntimeState
	if err := m.Lookup(uint32(0), &state); err != nil {
		return fmt.Errorf("reading the map runtime: %w", err)
	}
	change(&state)
	if err := m.Put(uint32(0), &state); err != nil {
		return fmt.Errorf("writing the map runtime: %w", err)
	}
	return nil
}
