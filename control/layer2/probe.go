// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
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
// of the one that says so first; nil: none does. This node's own MACs are no answer. Many addresses may be asked
// for at one time: they share a socket for each device and family.
func (w *Wire) Probe(ctx context.Context, addr netip.Addr, ifindexes []int) (holder net.HardwareAddr, err error) {
	q := &inquiry{addr, make(chan answer, 1)}
	var asked []*prober
	defer func() {
		for _, p := range asked {
			w.leaveProber(p, q)
		}
	}()
	for _, ifindex := range ifindexes {
		p, err := w.joinProber(ifindex, q)
		if err != nil {
			return nil, fmt.Errorf("probing for the address %s on device %d: %w", addr, ifindex, err)
		}
		asked = append(asked, p)
	}
	for range probes {
		for _, p := range asked {
			if err := p.ask(addr); err != nil {
				return nil, err
			}
		}
		select {
		case a := <-q.answer:
			return a.holder, a.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(probeInterval):
		}
	}
	return nil, nil
}

// inquiry is one Probe.
type inquiry struct {
	addr   netip.Addr
	answer chan answer // the first one is kept
}

type answer struct {
	holder net.HardwareAddr
	err    error
}

func (q *inquiry) put(a answer) {
	select {
	case q.answer <- a:
	default:
	}
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

// proberKey is what the inquiries of a prober have in common.
type proberKey struct {
	ifindex int
	v6      bool
}

// prober asks on one device, for all inquiries of one family that there are at a time: a socket of its own for each would
// see the questions and answers of all others.
type prober struct {
	key  proberKey
	port *port
	own  []net.HardwareAddr // of this node

	mu        sync.Mutex
	inquiries map[*inquiry]bool
	failed    error // why nothing is received any more
}

// joinProber has the answers to an inquiry received.
func (w *Wire) joinProber(ifindex int, q *inquiry) (*prober, error) {
	w.probing.Lock()
	defer w.probing.Unlock()
	key := proberKey{ifindex, q.addr.Is6()}
	p := w.probers[key]
	if p == nil {
		var err error
		if p, err = newProber(key); err != nil {
			return nil, err
		}
		w.probers[key] = p
		go p.receive()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil { // without answers, the address would be taken for free
		return nil, p.failed
	}
	p.inquiries[q] = true
	return p, nil
}

// leaveProber ends an inquiry, and with the last one its prober.
func (w *Wire) leaveProber(p *prober, q *inquiry) {
	w.probing.Lock()
	defer w.probing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.inquiries, q)
	if len(p.inquiries) == 0 {
		delete(w.probers, p.key)
		if err := p.port.close(); err != nil {
			w.log.Warnf("closing the packet socket on the device %s: %v", p.port.Name, err)
		}
	}
}

func newProber(key proberKey) (*prober, error) {
	own, err := ownMACs()
	if err != nil {
		return nil, err
	}
	d, err := readDevice(key.ifindex)
	if err != nil {
		return nil, err
	}
	protocol, config := unix.ETH_P_ARP, (*packet.Config)(nil)
	if key.v6 {
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
	return &prober{key: key, port: &port{Device: d, conn: conn}, own: own, inquiries: map[*inquiry]bool{}}, nil
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

func (p *prober) ask(addr netip.Addr) error {
	frame, err := question(p.port.Device, addr)
	if err != nil {
		return err
	}
	return p.port.send(frame)
}

// receive hands answers to the inquiries until the socket is closed, or fails.
func (p *prober) receive() {
	buffer := make([]byte, 2048)
	for {
		n, _, err := p.port.conn.ReadFrom(buffer)
		if err != nil {
			p.fail(fmt.Errorf("receiving on the device %s: %w", p.port.Name, err))
			return
		}
		if addr, mac := claimIn(buffer[:n]); mac != nil && !contains(p.own, mac) {
			p.answer(addr, mac)
		}
	}
}

func (p *prober) answer(addr netip.Addr, mac net.HardwareAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q := range p.inquiries {
		if q.addr == addr {
			q.put(answer{holder: slices.Clone(mac)})
		}
	}
}

func (p *prober) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = err
	for q := range p.inquiries {
		q.put(answer{err: err})
	}
}

func contains(macs []net.HardwareAddr, mac net.HardwareAddr) bool {
	return slices.ContainsFunc(macs, func(m net.HardwareAddr) bool { return slices.Equal(m, mac) })
}
