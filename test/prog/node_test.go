// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	snatMin         = 49152
	snatMax         = 65535
	firstGeneration = 1
	// A "second" so long that none passes in a test unless the test moves the
	// time.
	second = 1_000_000
)

// node is the datapath of one test: maps and programs that no other test uses.
type node struct {
	*datapath
	t         *testing.T
	explained bool        // ask the twin about each packet, see withTwin
	counted   []uint64    // packets by hook and verdict, at the last count
	slots     uint32      // in use
	backends  uint32      // in use; element 0 stays free
	services  uint32      // ids in use
	last      bpf.Service // the last that was published
}

func newNode(t *testing.T, settings ...setting) *node {
	t.Helper()
	enter(t)
	always := []setting{variable("hz", uint32(second))}
	for _, name := range slices.Sorted(maps.Keys(timeouts)) {
		always = append(always, variable(name, timeouts[name]))
	}
	d, err := borrow(append(always, settings...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.giveBack)
	n := &node{datapath: d, t: t}
	n.configure()
	n.count()
	return n
}

func (n *node) program(name string) *ebpf.Program {
	n.t.Helper()
	p, err := n.load(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

func (n *node) put(name string, key, value any) {
	n.t.Helper()
	if err := n.maps[name].Put(key, value); err != nil {
		n.t.Fatalf("%s: %v", name, err)
	}
}

// configure writes the namespace's description to the maps.
func (n *node) configure() {
	n.t.Helper()
	n.setGeneration(firstGeneration)
	n.put("cluster_ranges", uint32(0), bpf.ClusterGuard{})
	n.put("pod_ranges", uint32(0), bpf.ClusterGuard{})
	for _, d := range allDevices {
		n.setDevice(d, d.flags)
		if d.flags&bpf.DeviceXDPTransmits != 0 {
			n.put("xdp_devices", uint32(d.index), uint32(d.index))
		}
	}
	for _, p := range []plan{plan4, plan6} {
		for _, d := range allDevices {
			if d.addr != nil {
				n.put(family("node_addrs", d.addr(p)), d.addr(p).AsSlice(), bpf.NodeAddrLocal|bpf.NodeAddrNodePorts)
			}
		}
	}
}

func (n *node) setGeneration(generation uint32) {
	n.t.Helper()
	n.put("runtime", uint32(0), bpf.RuntimeState{Generation: generation})
}

// setDevice adds a device. For one without an address of its own, like a pod's,
// SNAT uses the node's, in element 0.
func (n *node) setDevice(d *device, flags uint32) {
	n.t.Helper()
	n.put("devices", uint32(0), bpf.Device{Addr4: word(plan4.back), Addr6: words(plan6.back)})
	known := bpf.Device{Flags: flags}
	if d.addr != nil {
		known.Addr4, known.Addr6 = word(d.addr(plan4)), words(d.addr(plan6))
	}
	n.put("devices", uint32(d.index), known)
}

// family returns the name of the map for an address's family.
func family(name string, a netip.Addr) string {
	if a.Is4() {
		return name + "4"
	}
	return name + "6"
}

// word and words convert addresses to the maps' form.
func word(a netip.Addr) uint32 { return binary.NativeEndian.Uint32(a.AsSlice()) }

func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := range len(b) / 4 {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func netPort(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
