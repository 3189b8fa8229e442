// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

const (
	txPort       = 5001
	redirectPort = 5002
)

// Frames that XDP on a node's eth0 sends reach the laptop. A "sent" counter
// would not prove this: a program sends datagrams back, and the laptop receives
// them.
func TestXDPPeers(t *testing.T) {
	n := newTestNetwork(t, ForXDP())
	node := n.Nodes[0]
	attachReflector(t, node.Host)
	for _, port := range []uint16{txPort, redirectPort} {
		capture, err := n.Laptop.Capture("eth0")
		must(t, err)
		exchangeReflected(t, n.Laptop, netip.AddrPortFrom(node.IP4, port))
		nodeMAC, err := node.MAC("eth0")
		must(t, err)
		frame, err := capture.Wait(time.Second, func(f Frame) bool {
			return !f.Outgoing && bytes.HasSuffix(f.Data, []byte("turn me round"))
		})
		must(t, err)
		if !bytes.Equal(frame.Data[6:12], nodeMAC) {
			t.Errorf("port %d: source MAC %x, want %s", port, frame.Data[6:12], nodeMAC)
		}
	}
}

func exchangeReflected(t *testing.T, from *Host, server netip.AddrPort) {
	t.Helper()
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.Dial("udp", server.String())
		return err
	})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(2*time.Second)))
	_, err = conn.Write([]byte("turn me round"))
	must(t, err)
	buffer := make([]byte, 100)
	length, err := conn.Read(buffer)
	must(t, err)
	if got := string(buffer[:length]); got != "turn me round" {
		t.Errorf("%s answered %q", server, got)
	}
}

func attachReflector(t *testing.T, h *Host) {
	t.Helper()
	device, err := h.Link("eth0")
	must(t, err)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "reflect", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: reflector(device.Attrs().Index),
	})
	must(t, err)
	t.Cleanup(func() { program.Close() })
	must(t, h.Do(func() error {
		attached, err := link.AttachXDP(link.XDPOptions{
			Program: program, Interface: device.Attrs().Index, Flags: link.XDPDriverMode,
		})
		if err == nil {
			t.Cleanup(func() { attached.Close() })
		}
		return err
	}))
}

// reflector swaps the addresses and ports of UDP datagrams over IPv4 to our two
// ports, which keeps all checksums valid, and sends them back.
func reflector(ifindex int) asm.Instructions {
	const (
		xdpPass, xdpTX   = 2, 3
		etherType        = 12
		ipProto          = 23
		ipSource, ipDest = 26, 30
		source, dest     = 34, 36
		length           = 42
	)
	wire := func(v uint16) int32 { return int32(networkOrder(v)) }
	swap := func(a, b int16, size asm.Size) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R4, asm.R2, a, size), asm.LoadMem(asm.R5, asm.R2, b, size),
			asm.StoreMem(asm.R2, a, asm.R5, size), asm.StoreMem(asm.R2, b, asm.R4, size),
		}
	}
	program := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, length),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, etherType, asm.Half),
		asm.JNE.Imm(asm.R4, wire(0x0800), "pass"),
		asm.LoadMem(asm.R4, asm.R2, ipProto, asm.Byte),
		asm.JNE.Imm(asm.R4, 17, "pass"),
		asm.LoadMem(asm.R6, asm.R2, dest, asm.Half),
		asm.JEq.Imm(asm.R6, wire(txPort), "ours"),
		asm.JNE.Imm(asm.R6, wire(redirectPort), "pass"),
	}
	ours := append(swap(0, 6, asm.Word), swap(4, 10, asm.Half)...)
	ours[0] = ours[0].WithSymbol("ours")
	ours = append(ours, swap(ipSource, ipDest, asm.Word)...)
	ours = append(ours, swap(source, dest, asm.Half)...)
	program = append(program, ours...)
	return append(program,
		asm.JEq.Imm(asm.R6, wire(redirectPort), "redirect"),
		asm.Mov.Imm(asm.R0, xdpTX),
		asm.Return(),
		asm.Mov.Imm(asm.R1, int32(ifindex)).WithSymbol("redirect"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}

// With offload the sender leaves the checksum to be filled in, and without it
// doesn't: XDP would see this.
func TestTxOffload(t *testing.T) {
	for _, offload := range []bool{true, false} {
		n := newTestNetwork(t, Options{Nodes: 1, TxOffload: offload})
		capture, err := n.Nodes[0].Capture("eth0")
		must(t, err)
		c := newTestClient(t, n.Laptop)
		go c.UDPUnconnected(Request{To: netip.AddrPortFrom(n.Nodes[0].IP4, udpPort), Size: 77, Timeout: time.Millisecond})
		frame, err := capture.Wait(5*time.Second, func(f Frame) bool {
			return len(f.Data) == 42+77 && binary.BigEndian.Uint16(f.Data[36:]) == udpPort
		})
		must(t, err)
		if frame.Unfinished != offload {
			t.Errorf("offload %t: checksum unfinished %t", offload, frame.Unfinished)
		}
		_, err = capture.Stop()
		must(t, err)
	}
}
