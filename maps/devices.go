// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Device is what the programs need to know about a network device.
type Device struct {
	TCTransmits  bool // tc may send by redirect, past the stack
	XDPTransmits bool // XDP may transmit on it
	EgressHook   bool // our program sees packets that leave by it
	Pod          bool // the host's side of a pod's device
	Ethernet     bool // its frames begin with an Ethernet header
	Uplink       bool // replies leave by it if their requests came in by it
	// The addresses that SNAT uses for packets that leave by the device. An invalid one: none.
	Addr4, Addr6 netip.Addr
}

// Devices is the table of devices, by ifindex in the namespace of the node. Element 0 holds
// the node's primary addresses, for devices that have none.
type Devices struct {
	p Provider
}

// NewDevices opens the table.
func NewDevices(p Provider) *Devices { return &Devices{p} }

// Put writes a device. It also makes flows look up their next hops again, because these contain
// some of it. Call Put in the node's network namespace: a devmap takes the ifindex for one of the
// caller's.
func (d *Devices) Put(ifindex int, dev Device) error {
	index := uint32(ifindex)
	c := dev.encode()
	if dev.XDPTransmits {
		if err := put(d.p.Map("xdp_devices"), "xdp_devices", index, index); err != nil {
			return fmt.Errorf("device %d: %w", ifindex, err)
		}
	}
	if err := put(d.p.Map("devices"), "devices", index, &c); err != nil {
		return fmt.Errorf("device %d: %w", ifindex, err)
	}
	if !dev.XDPTransmits {
		if err := d.delete("xdp_devices", index); err != nil {
			return err
		}
	}
	return BumpGeneration(d.p)
}

// Delete removes a device.
func (d *Devices) Delete(ifindex int) error {
	return errors.Join(d.delete("devices", uint32(ifindex)), d.delete("xdp_devices", uint32(ifindex)))
}

func (d *Devices) delete(name string, index uint32) error {
	if err := d.p.Map(name).Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("device %d in the map %s: %w", index, name, err)
	}
	return nil
}

// All reads the table.
func (d *Devices) All() (map[int]Device, error) {
	out := map[int]Device{}
	var index uint32
	var c bpf.Device
	it := d.p.Map("devices").Iterate()
	for it.Next(&index, &c) {
		out[int(index)] = decodeDevice(&c)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map devices: %w", err)
	}
	return out, nil
}

// Transmitting returns the devices that XDP may transmit on, by ifindex.
func (d *Devices) Transmitting() (map[int]bool, error) {
	out := map[int]bool{}
	var index, to uint32
	it := d.p.Map("xdp_devices").Iterate()
	for it.Next(&index, &to) {
		out[int(index)] = index == to
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("reading the map xdp_devices: %w", err)
	}
	return out, nil
}

func (d Device) encode() bpf.Device {
	var c bpf.Device
	for flag, set := range d.flags() {
		if *set {
			c.Flags |= flag
		}
	}
	if d.Addr4.IsValid() {
		c.Addr4 = word4(d.Addr4)
	}
	if d.Addr6.IsValid() {
		c.Addr6 = words6(d.Addr6)
	}
	return c
}

func decodeDevice(c *bpf.Device) Device {
	var d Device
	for flag, set := range d.flags() {
		*set = c.Flags&flag != 0
	}
	if c.Addr4 != 0 {
		d.Addr4 = addr4(c.Addr4)
	}
	if c.Addr6 != [4]uint32{} {
		d.Addr6 = addr6(c.Addr6)
	}
	return d
}

// flags maps the bits of bpf.Device.Flags to members.
func (d *Device) flags() map[uint32]*bool {
	return map[uint32]*bool{
		bpf.DeviceTCTransmits: &d.TCTransmits, bpf.DeviceXDPTransmits: &d.XDPTransmits,
		bpf.DeviceEgressHook: &d.EgressHook, bpf.DevicePod: &d.Pod,
		bpf.DeviceEthernet: &d.Ethernet, bpf.DeviceUplink: &d.Uplink,
	}
}
