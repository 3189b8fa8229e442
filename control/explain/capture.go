// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// Captured is a packet of a capture.
type Captured struct {
	Number int    // from 1 on
	Frame  []byte // with its Ethernet header; nil: the capture has none
	Packet []byte // from the IP header on; nil: it is no IP packet
}

// Capture reads the packets of a pcap or pcapng file. An error ends it, and says of which packet it is.
func Capture(r io.Reader) iter.Seq2[Captured, error] {
	return func(yield func(Captured, error) bool) {
		read, err := captureReader(r)
		if err != nil {
			yield(Captured{}, err)
			return
		}
		for number := 1; ; number++ {
			data, kind, err := read()
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the file is cut short")
			}
			c := Captured{Number: number}
			if err == nil {
				err = c.decode(kind, data)
			}
			if err != nil {
				yield(c, fmt.Errorf("packet %d: %w", number, err))
				return
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// pcapngMagic is what a pcapng file begins with, in any byte order.
var pcapngMagic = []byte{0x0a, 0x0d, 0x0d, 0x0a}

// captureReader reads one packet after the other, each with its link type.
func captureReader(r io.Reader) (func() ([]byte, layers.LinkType, error), error) {
	buffered := bufio.NewReader(r)
	magic, err := buffered.Peek(len(pcapngMagic))
	if err != nil {
		return nil, errors.New("it is no capture: it is shorter than a header of one")
	}
	if bytes.Equal(magic, pcapngMagic) {
		ng, err := pcapgo.NewNgReader(buffered, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			return nil, fmt.Errorf("it is no pcapng file: %w", err)
		}
		return func() ([]byte, layers.LinkType, error) {
			data, info, err := ng.ReadPacketData()
			return data, linkTypeOf(info), err
		}, nil
	}
	plain, err := pcapgo.NewReader(buffered)
	if err != nil {
		return nil, fmt.Errorf("it is no pcap file: %w", err)
	}
	return func() ([]byte, layers.LinkType, error) {
		data, info, err := plain.ReadPacketData()
		if errors.Is(err, io.EOF) && info.CaptureLength > 0 { // the file ends behind a packet's header
			err = io.ErrUnexpectedEOF
		}
		return data, plain.LinkType(), err
	}, nil
}

func linkTypeOf(info gopacket.CaptureInfo) layers.LinkType {
	if len(info.AncillaryData) > 0 {
		if kind, ok := info.AncillaryData[0].(layers.LinkType); ok {
			return kind
		}
	}
	return layers.LinkTypeNull
}

// Sizes of the headers that `tcpdump -i any` writes, and where in them the EtherType is.
const (
	sllHeader, sllProtocol   = 16, 14
	sll2Header, sll2Protocol = 20, 0
	ethernetHeader           = 14
)

func (c *Captured) decode(kind layers.LinkType, data []byte) error {
	switch kind {
	case layers.LinkTypeEthernet:
		c.Frame = data
		if len(data) > ethernetHeader && isIP(binary.BigEndian.Uint16(data[ethernetHeader-2:])) {
			c.Packet = data[ethernetHeader:]
		}
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		c.Packet = data
	case layers.LinkTypeLinuxSLL:
		c.Packet = cooked(data, sllHeader, sllProtocol)
	case layers.LinkTypeLinuxSLL2:
		c.Packet = cooked(data, sll2Header, sll2Protocol)
	default:
		return fmt.Errorf("its link type %d (%s) is not known: want Ethernet, raw IP or Linux cooked", int(kind), kind)
	}
	return nil
}

func cooked(data []byte, header, protocol int) []byte {
	if len(data) <= header || !isIP(binary.BigEndian.Uint16(data[protocol:])) {
		return nil
	}
	return data[header:]
}

func isIP(etherType uint16) bool { return etherType == unix.ETH_P_IP || etherType == unix.ETH_P_IPV6 }

// source is where the packet comes from.
func (c *Captured) source() (from netip.Addr, ok bool) {
	p := c.Packet
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[12:16])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[8:24])), true
	}
	return c.asker()
}

// Captured explains a packet of a capture, at a device or, if that is "", at the one that leads to its source.
func (e *Explainer) Captured(c Captured, name string, leaving bool) (*Answer, error) {
	asked := fmt.Sprintf("packet %d", c.Number)
	var d device
	var err error
	if name != "" {
		d, err = e.deviceNamed(name)
		if err != nil {
			return nil, err
		}
	} else {
		from, ok := c.source()
		if !ok {
			return &Answer{Asked: asked, Hooks: []Hook{}, Note: "no IP packet: name the device that it comes in by, with --device"}, nil
		}
		if d, err = e.deviceTowards(from, true); err != nil {
			return &Answer{Asked: asked, Hooks: []Hook{}, Note: err.Error()}, nil
		}
	}
	frame, ok := c.frameFor(d)
	if !ok {
		return &Answer{Asked: asked, Hooks: []Hook{}, Note: fmt.Sprintf("no IP packet, and %s has nothing else", d.name)}, nil
	}
	a, err := e.frame(d, frame, leaving)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asked, err)
	}
	a.Asked = fmt.Sprintf("%s, at %s", asked, d.name)
	return a, nil
}

// frameFor is the packet as it is seen at a device.
func (c *Captured) frameFor(d device) (frame []byte, ok bool) {
	switch {
	case d.mac == nil:
		return c.Packet, c.Packet != nil
	case c.Frame != nil:
		return c.Frame, true
	}
	return ethernet(d.mac, c.Packet), c.Packet != nil
}
