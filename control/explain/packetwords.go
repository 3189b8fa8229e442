// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// understood: ports were read, so that there is a tuple to look up.
func understood(trace *loader.Trace) bool {
	switch trace.Verdict {
	case bpf.VerdictUnparsed, bpf.VerdictFragment:
		return trace.Notes.Steps&bpf.TraceService != 0
	}
	proto := trace.Packet.Tuple.Proto
	return proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP
}

// parsed describes the packet. False: no program has parsed it.
func (t *report) parsed(trace *loader.Trace) bool {
	if trace.Notes.Steps&bpf.TraceWhoHas != 0 {
		t.whoHas(trace)
		return false
	}
	p := trace.Packet
	if p.Family == 0 {
		t.step("parsed", "%s", t.frameWords(trace.Verdict))
		return false
	}
	tuple := tupleOf(trace)
	what := fmt.Sprintf("IPv%d, %s", familyOf(trace), protocolName(p.Tuple.Proto))
	if !understood(trace) {
		t.step("parsed", "%s, %s to %s", what, tuple.Src.Addr(), tuple.Dst.Addr())
		return true
	}
	if flags := flagWords(p); flags != "" {
		what += " " + flags
	}
	what += fmt.Sprintf(", %s to %s, %d bytes, TTL %d", tuple.Src, tuple.Dst, p.Len, p.Ttl)
	switch p.Fragment {
	case bpf.FragmentFirst:
		what += ", a first fragment"
	case bpf.FragmentLater:
		what += ", a later fragment: its ports are those of the first, which came before it"
	}
	t.step("parsed", "%s", what)
	return true
}

func protocolName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ICMP"
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		return maps.ProtoName(proto)
	}
	return fmt.Sprintf("protocol %d", proto)
}

func flagWords(p bpf.Packet) string {
	if p.Tuple.Proto == unix.IPPROTO_UDP {
		return ""
	}
	var set []string
	for _, name := range []string{"syn", "ack", "fin", "rst"} {
		if p.TcpFlags&tcpFlags[name] != 0 {
			set = append(set, strings.ToUpper(name))
		}
	}
	if p.Tuple.Proto == unix.IPPROTO_SCTP {
		return sctpWords(set)
	}
	return strings.Join(set, ",")
}

// sctpWords names the chunk that is taken for TCP's flags.
func sctpWords(flags []string) string {
	switch strings.Join(flags, ",") {
	case "SYN":
		return "INIT"
	case "SYN,ACK":
		return "INIT ACK"
	case "RST":
		return "ABORT"
	case "ACK,FIN":
		return "SHUTDOWN"
	}
	return "DATA"
}

// frameWords says why a frame was not looked into.
func (t *report) frameWords(v bpf.Verdict) string {
	switch v {
	case bpf.VerdictVlan:
		return "a frame with a VLAN tag: the VLAN's own device sees it"
	case bpf.VerdictNotIP:
		return "no IP packet"
	}
	if tagged(t.frame) {
		return "a frame with a VLAN tag: the VLAN's own device sees it"
	}
	if len(t.frame) >= len(t.device.mac) && t.device.mac != nil {
		to := net.HardwareAddr(t.frame[:6])
		if to[0]&1 != 0 {
			return fmt.Sprintf("a frame to %s, which is to many: the stack drops what it holds for one host", to)
		}
		if to.String() != t.device.mac.String() {
			return fmt.Sprintf("a frame to %s, and the address of %s is %s: a switch has flooded it", to, t.device.name, t.device.mac)
		}
	}
	return "not looked into"
}
