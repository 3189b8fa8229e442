// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Template is what an [Injector] sends: bytes, some of which differ from frame to frame.
type Template struct {
	Bytes []byte
	// Random are pairs of bytes that are random in each frame.
	Random []Random
}

// Random is one number of 16 bits at some even offsets, with its complement at others. A checksum
// over as many of the one as of the other doesn't depend on the number, so it can be computed
// beforehand, with the number 0.
type Random struct {
	At, Complement []int
}

// Injector sends frames out of a device as fast as the kernel can, without sockets.
type Injector struct {
	host    *Host
	ifindex uint32
	program *ebpf.Program
	length  int
}

// Injector prepares to send frames by a device. The other end of a veth accepts them only if it
// runs XDP or has GRO on, see [Host.SetGRO].
func (h *Host) Injector(ifname string, f Template) (*Injector, error) {
	link, err := h.Link(ifname)
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "topo_inject", Type: ebpf.XDP, License: "GPL", Instructions: f.instructions(),
	})
	if err != nil {
		return nil, fmt.Errorf("injector: %w", err)
	}
	return &Injector{host: h, ifindex: uint32(link.Attrs().Index), program: program, length: len(f.Bytes)}, nil
}

// Send sends so many frames, as fast as possible. Only the receiver knows how many arrive.
func (i *Injector) Send(frames uint32) error {
	return i.host.Do(func() error { return i.send(frames) })
}

// SendBy is Send by one CPU: the nth, modulo their number, of those that the process may run on. The other end of a
// veth receives them on the same CPU if it has as many queues, see [Options].
func (i *Injector) SendBy(nth int, frames uint32) error {
	return i.host.Do(func() error { // on a thread that ends with it
		if err := pinToNth(nth); err != nil {
			return fmt.Errorf("injecting frames by one CPU: %w", err)
		}
		return i.send(frames)
	})
}

func pinToNth(nth int) error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	left := nth % may.Count()
	for cpu := 0; ; cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		if left == 0 {
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
		left--
	}
}

func (i *Injector) send(frames uint32) error {
	const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	// struct xdp_md: XDP_TX sends by this device
	context := struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{
		dataEnd: uint32(i.length), ingress: i.ifindex,
	}
	_, err := i.program.Run(&ebpf.RunOptions{
		Data: make([]byte, i.length), Context: context, Repeat: frames, Flags: liveFrames,
	})
	runtime.KeepAlive(i)
	if err != nil {
		return fmt.Errorf("injecting frames: %w", err)
	}
	return nil
}

// Close unloads the program.
func (i *Injector) Close() error { return i.program.Close() }

// instructions write every byte of each frame: the kernel reuses the memory of frames, which may
// have been changed on their way.
func (f Template) instructions() asm.Instructions {
	const (
		xdpDrop = 1
		xdpTX   = 3
	)
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R9, asm.R1),
	}
	for n := range f.Random {
		ins = append(ins,
			asm.FnGetPrandomU32.Call(),
			asm.And.Imm(asm.R0, 0xffff),
			asm.StoreMem(asm.RFP, randomSlot(n), asm.R0, asm.DWord),
		)
	}
	ins = append(ins,
		asm.LoadMem(asm.R6, asm.R9, 0, asm.Word), // data
		asm.LoadMem(asm.R7, asm.R9, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Add.Imm(asm.R2, int32(len(f.Bytes))),
		asm.Mov.Imm(asm.R0, xdpDrop),
		asm.JGT.Reg(asm.R2, asm.R7, "exit"),
	)
	for at := 0; at < len(f.Bytes); at += 4 {
		if left := f.Bytes[at:]; len(left) >= 4 {
			ins = append(ins, asm.StoreImm(asm.R6, int16(at), int64(int32(binary.NativeEndian.Uint32(left))), asm.Word))
			continue
		}
		for i, b := range f.Bytes[at:] {
			ins = append(ins, asm.StoreImm(asm.R6, int16(at+i), int64(b), asm.Byte))
		}
	}
	for n, r := range f.Random {
		ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, randomSlot(n), asm.DWord))
		for _, at := range r.At {
			ins = append(ins, asm.StoreMem(asm.R6, int16(at), asm.R1, asm.Half))
		}
		ins = append(ins, asm.Xor.Imm(asm.R1, 0xffff))
		for _, at := range r.Complement {
			ins = append(ins, asm.StoreMem(asm.R6, int16(at), asm.R1, asm.Half))
		}
	}
	return append(ins,
		asm.Mov.Imm(asm.R0, xdpTX),
		asm.Return().WithSymbol("exit"),
	)
}

func randomSlot(n int) int16 { return int16(-8 * (n + 1)) }
