// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// shot is one packet that is ready for a program, with its result.
type shot struct {
	program *ebpf.Program
	sent    packet
	opts    ebpf.RunOptions
	action  uint32
	moves   [2]uint32 // the actions for a packet that was rewritten and goes on
}

// rawContext is a program's context in bytes, so that Run need not inspect its type.
func rawContext(context any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, context)
	must(err)
	return b
}

func (n *node) xdpShot(in *device, p packet) *shot {
	n.t.Helper()
	p = p.with(macs(p.ethSrc, in.mac()))
	frame := p.bytes()
	return n.shot("waggle_xdp", p, frame, rawContext(xdpContext(in, frame)), xdpTX, xdpRedirect)
}

// tcShot is for waggle_ingress on a device where packets come in, or waggle_egress on one where
// they go out.
func (n *node) tcShot(program string, d *device, p packet) *shot {
	n.t.Helper()
	if program == "waggle_ingress" {
		p = p.with(macs(p.ethSrc, d.mac()))
	}
	context := rawContext(skbContext{ingress: uint32(d.index), ifindex: uint32(d.index)})
	return n.shot(program, p, p.bytes(), context, tcNext, tcRedirect)
}

func (n *node) shot(program string, p packet, frame, context []byte, moves ...uint32) *shot {
	n.t.Helper()
	return &shot{
		program: n.program(program), sent: p, moves: [2]uint32(moves),
		opts: ebpf.RunOptions{
			Data: frame, DataOut: make([]byte, len(frame)+256), Context: context, Repeat: 1,
		},
	}
}

// run runs the program on the packet. Each shot may run once.
func (s *shot) run() (err error) {
	s.action, err = s.program.Run(&s.opts)
	return err
}

// redirect changes the packet's destination port, and not its checksum.
func (s *shot) redirect(port uint16) {
	s.sent.dst = at(s.sent.dst.Addr(), port)
	binary.BigEndian.PutUint16(s.opts.Data[s.sent.l4()+2:], port)
}

// fire runs a shot on the current CPU.
func (n *node) fire(s *shot) *shot {
	n.t.Helper()
	if err := s.run(); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// each returns the function for inStep that runs, in each round, one of each of the slices.
func each(shots ...[]*shot) func(round int) error {
	return func(round int) error {
		for _, some := range shots {
			if err := some[round].run(); err != nil {
				return err
			}
		}
		return nil
	}
}

// moved reports whether the packet goes on, and was rewritten.
func (s *shot) moved() bool {
	return (s.action == s.moves[0] || s.action == s.moves[1]) && !bytes.Equal(s.opts.Data, s.opts.DataOut)
}

// untouched reports whether the packet is left to the next program.
func (s *shot) untouched() bool {
	return (s.action == xdpPass || s.action == tcNext) && bytes.Equal(s.opts.Data, s.opts.DataOut)
}

// became reports whether the packet goes on, and is the sent one after the changes, without any
// other difference.
func (s *shot) became(changes ...change) bool {
	return s.moved() && bytes.Equal(s.sent.with(changes...).bytes(), s.opts.DataOut)
}

// ends are the source and the destination of the result.
func (s *shot) ends() (src, dst netip.AddrPort) { return frameEnds(s.opts.DataOut) }

func (s *shot) String() string {
	src, dst := s.ends()
	return fmt.Sprintf("%v > %v %s became %v > %v, action %d",
		s.sent.src, s.sent.dst, s.sent.flags, src, dst, int32(s.action))
}

// frameEnds parses a frame without IP options or extension headers. It is fast, because there are
// many here.
func frameEnds(frame []byte) (src, dst netip.AddrPort) {
	at, size, l4 := ethHeader+12, 4, ethHeader+ip4Header
	if frame[ethHeader]>>4 == 6 {
		at, size, l4 = ethHeader+8, 16, ethHeader+ip6Header
	}
	a, _ := netip.AddrFromSlice(frame[at : at+size])
	b, _ := netip.AddrFromSlice(frame[at+size : at+2*size])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(frame[l4:])),
		netip.AddrPortFrom(b, binary.BigEndian.Uint16(frame[l4+2:]))
}
