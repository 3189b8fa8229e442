// SPDX-License-Identifier: Apache-2.0

// Package conntrack reads and writes the kernel's table of connections, by ctnetlink
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h). It knows TCP, UDP and SCTP, in the default
// zone.
package conntrack

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Tuple is the source and destination of one direction's packets.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Reversed returns the tuple of the answers, if nothing is translated.
func (t Tuple) Reversed() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

func (t Tuple) String() string { return fmt.Sprintf("%s > %s", t.Src, t.Dst) }

// Entry is one connection.
type Entry struct {
	Proto  uint8 // IPPROTO_*
	Orig   Tuple // of the client's packets, as they come in
	Reply  Tuple // of the packets that answer them, as they come in
	Status uint32
	// State is the protocol's state: TCP* or SCTP*. 0 for UDP, and where the kernel reports none.
	State   uint8
	Timeout time.Duration // until the entry expires if no packet comes, in whole seconds
	Mark    uint32
	Zone    uint16
}

func (e Entry) String() string {
	return fmt.Sprintf("protocol %d, %s, answered by %s", e.Proto, e.Orig, e.Reply)
}

// Translated reports whether the destination of the client's packets is rewritten.
func (e Entry) Translated() bool { return e.Orig.Dst != e.Reply.Src }

// Bits of Entry.Status: include/uapi/linux/netfilter/nf_conntrack_common.h, enum ip_conntrack_status.
const (
	StatusSeenReply uint32 = 1 << 1
	StatusAssured   uint32 = 1 << 2 // not dropped early where the table is full
	statusConfirmed uint32 = 1 << 3 // every entry in the table is
	StatusDstNAT    uint32 = 1 << 5
)

// Values of Entry.State: nf_conntrack_tcp.h, enum tcp_conntrack.
const (
	TCPSynSent     uint8 = 1
	TCPSynRecv     uint8 = 2
	TCPEstablished uint8 = 3
	TCPFinWait     uint8 = 4 // one side has sent a FIN
	TCPCloseWait   uint8 = 5 // the FIN was acknowledged
	TCPLastAck     uint8 = 6 // both sides have sent a FIN
	TCPTimeWait    uint8 = 7
	TCPClose       uint8 = 8 // closed, or reset
)

// Values of Entry.State: nf_conntrack_sctp.h, enum sctp_conntrack.
const (
	SCTPClosed          uint8 = 1
	SCTPEstablished     uint8 = 4
	SCTPShutdownSent    uint8 = 5
	SCTPShutdownRecd    uint8 = 6
	SCTPShutdownAckSent uint8 = 7
)

// Known reports whether this package reads and writes entries of a protocol.
func Known(proto uint8) bool {
	return proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP
}
