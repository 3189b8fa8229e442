// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var errLine = errors.New("not a line of IPVS' table of connections")

// fields of a line: protocol, address and port of client, virtual and real server, state, seconds.
// What follows belongs to a persistence engine.
const fields = 9

// protocols by the kernel's names (ip_vs_proto_name). A name that is not here is of an entry that is
// no connection to a service.
var protocols = map[string]uint8{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

// states are those of TCP and SCTP that are not Open, by the kernel's names (ip_vs_state_name).
var states = map[string]State{
	"FIN_WAIT": HalfClosed, "CLOSE_WAIT": HalfClosed, "LAST_ACK": Closed, "TIME_WAIT": Closed, "CLOSE": Reset,
	"SHUTDOWN_SENT": HalfClosed, "SHUTDOWN_RECEIVED": HalfClosed, "SHUTDOWN_ACK_SENT": Closed,
	"CLOSED": Reset, "REJECTED": Reset,
}

// parse reads a line. Not every entry is a connection: a virtual server that is persistent also has a template
// for each client, which has no client's port, and a tunnel to the other family translates nothing.
func parse(line []byte) (c Connection, is bool, err error) {
	var field [fields][]byte
	for i := range field {
		line = bytes.TrimLeft(line, " \n")
		end := bytes.IndexAny(line, " \n")
		if end < 0 {
			end = len(line)
		}
		if end == 0 {
			return c, false, errLine
		}
		field[i], line = line[:end], line[end:]
	}
	var known bool
	if c.Proto, known = protocols[string(field[0])]; !known {
		return c, false, nil
	}
	for i, addr := range []*netip.AddrPort{&c.Client, &c.Virtual, &c.Real} {
		if *addr, err = parseAddrPort(field[1+2*i], field[2+2*i]); err != nil {
			return c, false, err
		}
	}
	c.State = states[string(field[7])]
	if c.Expires, err = parseSeconds(field[8]); err != nil {
		return c, false, err
	}
	one := c.Client.Addr().Is4() == c.Virtual.Addr().Is4() && c.Virtual.Addr().Is4() == c.Real.Addr().Is4()
	return c, one && c.Client.Port() != 0, nil
}

const (
	hex4 = 8  // digits of an IPv4 address
	hex6 = 39 // characters of an IPv6 address: eight groups of four digits, with colons
)

// parseAddrPort reads an address in either of the kernel's forms, in the order of bytes that people write, and
// a port of four hexadecimal digits.
func parseAddrPort(addr, port []byte) (netip.AddrPort, error) {
	var ip netip.Addr
	switch len(addr) {
	case hex4:
		var b [4]byte
		if _, err := hex.Decode(b[:], addr); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%w: address %q", errLine, addr)
		}
		ip = netip.AddrFrom4(b)
	case hex6:
		var b [16]byte
		for i := range 8 {
			group := addr[5*i:]
			if len(group) > 4 && group[4] != ':' {
				return netip.AddrPort{}, fmt.Errorf("%w: address %q", errLine, addr)
			}
			if _, err := hex.Decode(b[2*i:], group[:4]); err != nil {
				return netip.AddrPort{}, fmt.Errorf("%w: address %q", errLine, addr)
			}
		}
		ip = netip.AddrFrom16(b)
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: address %q", errLine, addr)
	}
	n, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: port %q", errLine, port)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// longest is longer than any timeout that IPVS can be given.
const longest = 1 << 32

// parseSeconds reads what is left of a timeout. Of a timer that has just expired some kernels print a
// huge number: the difference is unsigned.
func parseSeconds(text []byte) (time.Duration, error) {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: seconds %q", errLine, text)
	}
	if n >= longest {
		return 0, nil
	}
	return time.Duration(n) * time.Second, nil
}
