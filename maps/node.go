// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// NodeAddr says what the datapath does at an address of this node.
type NodeAddr struct {
	Local     bool // packets to it end on this node
	NodePorts bool // NodePorts answer there
}

func (a NodeAddr) encode() (flags uint8) {
	if a.Local {
		flags |= bpf.NodeAddrLocal
	}
	if a.NodePorts {
		flags |= bpf.NodeAddrNodePorts
	}
	return flags
}

func decodeNodeAddr(flags uint8) NodeAddr {
	return NodeAddr{Local: flags&bpf.NodeAddrLocal != 0, NodePorts: flags&bpf.NodeAddrNodePorts != 0}
}

// NodeAddrs are this node's addresses.
type NodeAddrs struct {
	p Provider
}

// NewNodeAddrs opens their maps.
func NewNodeAddrs(p Provider) *NodeAddrs { return &NodeAddrs{p} }

// All reads them.
func (n *NodeAddrs) All() (map[netip.Addr]NodeAddr, error) {
	out := map[netip.Addr]NodeAddr{}
	var k4 uint32
	var k6 bpf.Addr
	var flags uint8
	it := n.p.Map("node_addrs4").Iterate()
	for it.Next(&k4, &flags) {
		out[addr4(k4)] = decodeNodeAddr(flags)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map node_addrs4: %w", err)
	}
	it = n.p.Map("node_addrs6").Iterate()
	for it.Next(&k6, &flags) {
		out[addr6(k6.Word)] = decodeNodeAddr(flags)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map node_addrs6: %w", err)
	}
	return out, nil
}

// Set makes the maps hold exactly the wanted addresses. It adds first, so that no address is
// missing meanwhile. If there is no room for all, the addresses that NodePorts answer on take
// precedence.
func (n *NodeAddrs) Set(want map[netip.Addr]NodeAddr) error {
	have, err := n.All()
	if err != nil {
		return err
	}
	var full error
	for _, a := range inOrder(want) {
		if got, ok := have[a]; ok && got == want[a] {
			continue
		}
		if err := putPick(n.p, "node_addrs", FamilyOf(a), addrKey(a), want[a].encode()); err != nil && full == nil {
			full = fmt.Errorf("node address %s: %w", a, err)
		}
	}
	for a := range have {
		if _, ok := want[a]; ok {
			continue
		}
		err := pick(n.p, "node_addrs", FamilyOf(a)).Delete(addrKey(a))
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("node address %s: %w", a, err)
		}
	}
	return full
}

// inOrder lists the addresses that NodePorts answer on first.
func inOrder(addrs map[netip.Addr]NodeAddr) []netip.Addr {
	return slices.SortedFunc(maps.Keys(addrs), func(a, b netip.Addr) int {
		if first := addrs[a].NodePorts; first != addrs[b].NodePorts {
			if first {
				return -1
			}
			return 1
		}
		return a.Compare(b)
	})
}

func addrKey(a netip.Addr) any {
	if FamilyOf(a) == IPv4 {
		return word4(a)
	}
	return &bpf.Addr{Word: words6(a)}
}

// BumpGeneration makes every flow look up its next hop again.
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
