// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"fmt"
	gomaps "maps"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader/netdump"
	"github.com/waggle-lb/waggle/maps"
)

// port is a device on which addresses are announced, and the socket that sends there.
type port struct {
	Device
	conn  *packet.Conn
	addrs map[netip.Addr]bool // held there
}

// port returns that of a device, and opens it if there is none.
func (w *Wire) port(ifindex int) (*port, error) {
	if p := w.ports[ifindex]; p != nil {
		return p, nil
	}
	d, err := readDevice(ifindex)
	if err != nil {
		return nil, err
	}
	conn, err := listen(d, receiveNothing, nil)
	if err != nil {
		return nil, err
	}
	p := &port{Device: d, conn: conn, addrs: map[netip.Addr]bool{}}
	w.ports[ifindex] = p
	return p, nil
}

// readDevice reads one device. The error does not name it.
func readDevice(ifindex int) (Device, error) {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return Device{}, fmt.Errorf("reading the device: %w", err)
	}
	attrs := link.Attrs()
	if len(attrs.HardwareAddr) != macLen {
		return Device{}, fmt.Errorf("the device %s has no Ethernet address", attrs.Name)
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return Device{}, fmt.Errorf("reading the addresses of the device %s: %w", attrs.Name, err)
	}
	return newDevice(attrs, addrs), nil
}

// receiveNothing is the protocol of a socket that only sends.
const receiveNothing = 0

func listen(d Device, protocol int, config *packet.Config) (*packet.Conn, error) {
	conn, err := packet.Listen(&net.Interface{Index: d.Index, Name: d.Name, HardwareAddr: d.MAC}, packet.Raw, protocol, config)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on the device %s: %w", d.Name, err)
	}
	return conn, nil
}

// send sends frames.
func (p *port) send(frames ...[]byte) error {
	for _, frame := range frames {
		if _, err := p.conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:macLen])}); err != nil {
			return fmt.Errorf("sending on the device %s: %w", p.Name, err)
		}
	}
	return nil
}

func (p *port) close() error { return p.conn.Close() }

// leavePort closes the port of a device on which no address is held any more.
func (w *Wire) leavePort(addr netip.Addr, ifindex int) {
	p := w.ports[ifindex]
	if p == nil {
		return
	}
	delete(p.addrs, addr)
	if len(p.addrs) > 0 {
		return
	}
	if err := p.close(); err != nil {
		w.log.Warnf("closing the packet socket on the device %s: %v", p.Name, err)
	}
	delete(w.ports, ifindex)
}

// Refresh follows changes of devices on which addresses are held: one that has another MAC gets it answered and
// announced. It is to be called when links have changed. A device that is gone keeps its addresses: they are answered
// nowhere until Hold names other devices.
func (w *Wire) Refresh() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, ifindex := range slices.Sorted(gomaps.Keys(w.ports)) {
		errs = append(errs, w.refresh(w.ports[ifindex]))
	}
	return errors.Join(errs...)
}

func (w *Wire) refresh(p *port) error {
	d, err := readDevice(p.Index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("device %d: %w", p.Index, err)
	}
	moved := d.MAC.String() != p.MAC.String()
	p.Device = d
	if !moved {
		return nil
	}
	var errs []error
	for addr := range p.addrs {
		errs = append(errs, w.table.Set(maps.Place{Addr: addr, Ifindex: p.Index}, d.MAC))
		w.announce(addr)
	}
	return errors.Join(errs...)
}
