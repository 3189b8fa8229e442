// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// monitorEvent is an event, as it is shown.
type monitorEvent struct {
	Time    time.Time       `json:"time"`
	Event   string          `json:"event"` // the verdict
	Hook    string          `json:"hook"`
	Device  string          `json:"device,omitempty"` // where the packet was seen
	Proto   string          `json:"protocol"`
	Src     netip.AddrPort  `json:"source"`
	Dst     netip.AddrPort  `json:"destination"`
	ToSrc   *netip.AddrPort `json:"toSource,omitempty"` // what it is rewritten to
	ToDst   *netip.AddrPort `json:"toDestination,omitempty"`
	Service string          `json:"service,omitempty"` // namespace/name
	Port    string          `json:"port,omitempty"`
	Backend *netip.AddrPort `json:"backend,omitempty"`
	// Of a flow that is opened, and of a socket that is connected.
	Path       string `json:"path,omitempty"`
	Choice     string `json:"choice,omitempty"`           // affinity or random
	SourceNAT  bool   `json:"sourceTranslated,omitempty"` // the endpoint sees another address or port than the client's
	Reset      bool   `json:"reset,omitempty"`            // how the flow was closed
	PID        uint32 `json:"pid,omitempty"`              // who calls
	Command    string `json:"command,omitempty"`
	TCPFlags   string `json:"tcpFlags,omitempty"`
	Length     uint32 `json:"length,omitempty"`    // of the packet, with its link layer
	OutDevice  string `json:"outDevice,omitempty"` // where it is sent, if past the stack
	Before     []byte `json:"before,omitempty"`    // the packet as it came, at most 256 bytes
	After      []byte `json:"after,omitempty"`     // and as it left the program
	verdict    bpf.Verdict
	ifindex    uint32
	outIfindex uint32
}

// eventSize is the size of what precedes a packet's bytes.
const eventSize = int(unsafe.Sizeof(bpf.Event{}))

// event reads what the programs have put into the ring.
func (n *monitorNames) event(sample []byte) (*monitorEvent, error) {
	if len(sample) < eventSize {
		return nil, fmt.Errorf("an event of %d bytes, want %d: the datapath is of another version of waggle", len(sample), eventSize)
	}
	var raw bpf.Event
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&raw)), eventSize), sample) // encoding/binary takes ten times as long
	e := &monitorEvent{
		Time: n.booted.Add(time.Duration(raw.Time)), verdict: bpf.Verdict(raw.Verdict), ifindex: raw.Ifindex, outIfindex: raw.Out,
		Event: bpf.VerdictName(bpf.Verdict(raw.Verdict)), Hook: bpf.HookName(bpf.Hook(raw.Hook)),
		Proto: protocolOf(&raw), TCPFlags: tcpFlags(raw.TcpFlags), Length: raw.Len,
		Device: n.device(raw.Ifindex), OutDevice: n.device(raw.Out),
		PID: raw.Pid, Command: command(raw.Comm[:]),
	}
	e.Src, e.Dst = ends(&raw.Tuple, raw.Family)
	if err := n.resolve(e, &raw); err != nil {
		return nil, err
	}
	if data := sample[eventSize:]; raw.Before > 0 && int(raw.Before)+int(raw.After) <= len(data) {
		e.Before, e.After = bytes.Clone(data[:raw.Before]), bytes.Clone(data[raw.Before:raw.Before+raw.After])
	}
	return e, nil
}

// protocolOf names the protocol; of what asks for a MAC the one by which it does so.
func protocolOf(raw *bpf.Event) string {
	switch {
	case bpf.Verdict(raw.Verdict) != bpf.VerdictAnnounced:
		return maps.ProtoName(raw.Tuple.Proto)
	case raw.Family == unix.AF_INET:
		return "ARP"
	}
	return "NDP"
}

// resolve names what the event is about.
func (n *monitorNames) resolve(e *monitorEvent, raw *bpf.Event) error {
	if _, known := n.services[raw.Service]; raw.Service != 0 && !known {
		if err := n.refresh(); err != nil {
			return err
		}
	}
	name := n.services[raw.Service]
	e.Service, e.Port = serviceName(name), name.Port
	if b, ok := n.backends[raw.Backend]; ok && raw.Backend != 0 && b.Service == raw.Service {
		addr := netip.AddrPortFrom(b.Addr, b.Port)
		e.Backend = &addr
	}
	if raw.Flags&bpf.EventRewrite != 0 {
		n.resolveRewrite(e, raw)
	}
	if e.Service != "" && (e.verdict == bpf.VerdictFlowOpened || e.verdict == bpf.VerdictSockConnect) {
		e.Choice = "random"
		if raw.Flags&bpf.EventAffinity != 0 {
			e.Choice = "affinity"
		}
	}
	e.Reset = raw.Flags&bpf.EventReset != 0
	return nil
}

func (n *monitorNames) resolveRewrite(e *monitorEvent, raw *bpf.Event) {
	src, dst := ends(&raw.To, raw.Family)
	e.ToSrc, e.ToDst = &src, &dst
	if e.Hook == bpf.HookName(bpf.HookSock) {
		e.ToSrc = nil // the kernel chooses it
		return
	}
	e.Path = flowPath(raw.Path)
	e.SourceNAT = e.verdict == bpf.VerdictFlowOpened && e.Src != src
	if raw.Backend != 0 && raw.Path&bpf.FlowReply == 0 && raw.Path&bpf.FlowSplitSource == 0 {
		e.Backend = &dst // which the table may have given to another since
	}
}

func ends(t *bpf.Tuple, family uint8) (src, dst netip.AddrPort) {
	port := func(p uint16) uint16 { return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, p)) }
	return netip.AddrPortFrom(address(&t.Saddr, family), port(t.Sport)), netip.AddrPortFrom(address(&t.Daddr, family), port(t.Dport))
}

func address(a *bpf.Addr, family uint8) netip.Addr {
	var b [16]byte
	for i, word := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func command(comm []int8) string {
	var b strings.Builder
	for _, c := range comm {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// tcpFlags names the flags of a TCP header, or of an SCTP chunk the TCP flags that mean the same.
func tcpFlags(flags uint8) string {
	var names []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack"} {
		if flags>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// device names a device of the caller's network namespace.
func (n *monitorNames) device(ifindex uint32) string {
	if ifindex == 0 {
		return ""
	}
	if name, ok := n.devices[ifindex]; ok {
		return name
	}
	name := fmt.Sprintf("ifindex %d", ifindex)
	if d, err := net.InterfaceByIndex(int(ifindex)); err == nil {
		name = d.Name
	}
	n.devices[ifindex] = name
	return name
}

// booted is when the kernel's monotonic clock was 0, by the clock on the wall as it is now.
func booted() time.Time {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it can't fail
	return time.Now().Round(0).Add(-time.Duration(now.Nano()))
}
