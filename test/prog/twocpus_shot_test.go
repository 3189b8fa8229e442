// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// shot is one packet that is ready to be given to a program, and what became of it.
type shot struct {
	program *ebpf.Program
	sent    packet
	opts    ebpf.RunOptions
	action  uint32
	moves   [2]uint32 // the actions by which a packet goes on that was rewritten
}

// rawContext is a program's context in bytes, so that Run need not look at its type.
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

// run gives the packet to the program. Each shot may run once.
func (s *shot) run() (err error) {
	s.action, err = s.program.Run(&s.opts)
	return err
}

// redirect sends the packet to another port, whatever its checksum then is.
func (s *shot) redirect(port uint16) {
	s.sent.dst = at(s.sent.dst.Addr(), port)
	binary.BigEndian.PutUint16(s.opts.Data[s.sent.l4()+2:], port)
}

// fire runs a shot on the CPU that we happen to be on.
func (n *node) fire(s *shot) *shot {
	n.t.Helper()
	if err := s.run(); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// each is the function for inStep that runs, in each round, one of each of the slices.
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

// moved: the packet goes on, and was rewritten.
func (s *shot) moved() bool {
	return (s.action == s.moves[0] || s.action == s.moves[1]) && !bytes.Equal(s.opts.Data, s.opts.DataOut)
}

// untouched: the packet is left to whoever comes next.
func (s *shot) untouched() bool {
	return (s.action == xdpPass || s.action == tcNext) && bytes.Equal(s.opts.Data, s.opts.DataOut)
}

// became: the packet goes on, and is what was sent after the changes, and in no other bit different.
func (s *shot) became(changes ...change) bool {
	return s.moved() && bytes.Equal(s.sent.with(changes...).bytes(), s.opts.DataOut)
}

// ends are the source and the destination of what came out.
func (s *shot) ends() (src, dst netip.AddrPort) { return frameEnds(s.opts.DataOut) }

func (s *shot) String() string {
	src, dst := s.ends()
	return fmt.Sprintf("%v > %v %s became %v > %v, action %d",
		s.sent.src, s.sent.dst, s.sent.flags, src, dst, int32(s.action))
}

// frameEnds reads a frame without IP options or extension headers, of which there are many here.
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
