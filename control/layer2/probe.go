// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// A host is asked three times (RFC 5227, 2.1.1: PROBE_NUM). That RFC leaves one or two seconds between two questions, for
// networks that have just come up; the agent's has been up for a while, and its address waits for the answer.
const (
	probes        = 3
	probeInterval = 250 * time.Millisecond
)

// Probe asks on devices whether a host has an address, three times in three quarters of a second, and returns the MAC
// of the one that says so first; nil: none does. This node's own MACs, and those of members, are no answer.
func (w *Wire) Probe(ctx context.Context, addr netip.Addr, ifindexes []int, members []net.HardwareAddr) (holder net.HardwareAddr, err error) {
	own, err := ownMACs()
	if err != nil {
		return nil, err
	}
	var all []*probe
	defer func() {
		for _, p := range all {
			p.conn.Close()
		}
	}()
	for _, ifindex := range ifindexes {
		p, err := newProbe(addr, ifindex, append(own, members...))
		if err != nil {
			return nil, fmt.Errorf("probing for the address %s on device %d: %w", addr, ifindex, err)
		}
		all = append(all, p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(all))
	for _, p := range all {
		go func() { answers <- p.run(ctx) }()
	}
	for range all {
		a := <-answers
		if a.holder != nil {
			return a.holder, nil
		}
		err = errors.Join(err, a.err)
	}
	return nil, err
}

type answer struct {
	holder net.HardwareAddr
	err    error
}

// ownMACs are those of all of this node's devices: two of them may be on one network.
func ownMACs() ([]net.HardwareAddr, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	var out []net.HardwareAddr
	for _, link := range links {
		out = append(out, link.Attrs().HardwareAddr)
	}
	return out, nil
}

// probe asks for an address on one device.
type probe struct {
	addr     netip.Addr
	port     *port
	conn     *packet.Conn
	question []byte
	ignored  []net.HardwareAddr
}

func newProbe(addr netip.Addr, ifindex int, ignored []net.HardwareAddr) (*probe, error) {
	d, err := readDevice(ifindex)
	if err != nil {
		return nil, err
	}
	ask, err := question(d, addr)
	if err != nil {
		return nil, err
	}
	protocol, config := unix.ETH_P_ARP, (*packet.Config)(nil)
	if addr.Is6() {
		filter, err := bpf.Assemble(onlyAdvertisements)
		if err != nil {
			return nil, err
		}
		protocol, config = unix.ETH_P_IPV6, &packet.Config{Filter: filter}
	}
	conn, err := listen(d, protocol, config)
	if err != nil {
		return nil, err
	}
	return &probe{addr, &port{Device: d, conn: conn}, conn, ask, ignored}, nil
}

// Where a frame has them.
const (
	nextHeaderOffset = 14 + 6
	icmpTypeOffset   = 14 + 40
)

// onlyAdvertisements is a filter of frames with IPv6 packets.
var onlyAdvertisements = []bpf.Instruction{
	bpf.LoadAbsolute{Off: nextHeaderOffset, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
	bpf.LoadAbsolute{Off: icmpTypeOffset, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: layers.ICMPv6TypeNeighborAdvertisement, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// run asks, and waits after each question for an answer.
func (p *probe) run(ctx context.Context) answer {
	for range probes {
		if err := p.port.send(p.question); err != nil {
			return answer{err: err}
		}
		holder, err := p.wait(ctx, time.Now().Add(probeInterval))
		if holder != nil || err != nil {
			return answer{holder, err}
		}
	}
	return answer{}
}

// wait reads until the deadline. It returns the context's error if that ends before.
func (p *probe) wait(ctx context.Context, deadline time.Time) (holder net.HardwareAddr, err error) {
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Now()) })
	defer stop()
	buffer := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFrom(buffer)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("receiving on the device %s: %w", p.port.Name, err)
		}
		if mac := holderIn(buffer[:n], p.addr); mac != nil && !p.ignores(mac) {
			return slices.Clone(mac), nil
		}
	}
}

func (p *probe) ignores(mac net.HardwareAddr) bool {
	return slices.ContainsFunc(p.ignored, func(m net.HardwareAddr) bool { return slices.Equal(m, mac) })
}
