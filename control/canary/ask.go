// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/explain"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// asker has the explain twins of the programs that are attached.
type asker struct {
	twin     *loader.Twin
	programs map[string]bool
	host     uint64 // the cookie of the node's network namespace
}

// newAsker loads the twins, and lets go of what was needed for that.
func newAsker(dp *loader.Datapath, links []status.Link) (*asker, error) {
	twin, err := dp.Twin()
	if err != nil {
		return nil, err
	}
	a := &asker{twin: twin, programs: map[string]bool{}}
	for _, l := range links {
		if a.programs[l.Program] || l.Ifindex == 0 {
			continue
		}
		if err := twin.Load(l.Program); err != nil {
			twin.Close()
			return nil, err
		}
		a.programs[l.Program] = true
	}
	if err := errors.Join(twin.Load("waggle_connect4"), twin.Load(bpf.ExplainProgram), twin.Constant("host_netns_cookie", &a.host)); err != nil {
		twin.Close()
		return nil, err
	}
	twin.Loaded()
	return a, nil
}

func (a *asker) covers(links []status.Link) bool {
	return !slices.ContainsFunc(links, func(l status.Link) bool { return l.Ifindex != 0 && !a.programs[l.Program] })
}

func (a *asker) close() { a.twin.Close() }

var protocols = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}

// ask asks each program where a frontend leads: the one that it has led astray in the round before, if it did.
func (c *Canary) ask(links []status.Link) error {
	sample, ok := c.sample()
	c.misled = nil
	if !ok {
		return nil
	}
	links = c.turn(links)
	var errs []error
	for _, l := range links {
		if l.Ifindex != 0 && !strings.HasSuffix(l.Hook, "egress") {
			errs = append(errs, c.askDevice(l, sample))
		}
	}
	if slices.ContainsFunc(links, func(l status.Link) bool { return strings.HasPrefix(l.Hook, "connect") }) {
		errs = append(errs, c.askSocket(sample))
	}
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	if now, there := c.Services.SampleOf(sample); !there || !now.Equal(sample) {
		return nil // it has changed meanwhile
	}
	c.misled = &sample
	return err
}

func (c *Canary) sample() (reconcile.Sample, bool) {
	if c.misled != nil {
		if s, there := c.Services.SampleOf(*c.misled); there {
			return s, true
		}
	}
	return c.Services.Sample()
}

// askDevice asks with a frame to the device's MAC. It keeps that: to ask the kernel for it takes longer than the rest.
// If the answer is wrong, the device may have another one by now.
func (c *Canary) askDevice(l status.Link, s reconcile.Sample) error {
	if mac, known := c.macs[l.Ifindex]; known && c.askFrame(l, s, mac) == nil {
		return nil
	}
	device, err := netlink.LinkByIndex(l.Ifindex) // net.InterfaceByIndex has the kernel list all devices
	if err != nil {
		return nil // it has gone
	}
	c.macs[l.Ifindex] = device.Attrs().HardwareAddr
	return c.askFrame(l, s, c.macs[l.Ifindex])
}

func (c *Canary) askFrame(l status.Link, s reconcile.Sample, mac net.HardwareAddr) error {
	if strings.HasSuffix(l.Program, "_l3") {
		mac = nil
	}
	q := explain.Question{
		To: netip.AddrPortFrom(s.Frontend.Addr, s.Frontend.Port), From: explain.Outside(s.Frontend.Addr),
		Proto: protocols[s.Frontend.Proto], Flags: []string{"syn"},
	}
	trace, err := c.asker.twin.Packet(l.Program, l.Ifindex, explain.Frame(q, mac), uint32(c.round))
	if err == nil {
		err = answers(s, trace)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %s: %w", l.Hook, l.Device, s.Name, err)
	}
	return nil
}

// answers fails if a packet is led elsewhere than planned.
func answers(s reconcile.Sample, t *loader.Trace) error {
	switch {
	case t.Notes.Steps&bpf.TraceFrontend == 0:
		return fmt.Errorf("%s is taken for no frontend (verdict %s)", s.Frontend, bpf.VerdictName(t.Verdict))
	case t.Notes.Service.Id != s.Service:
		return fmt.Errorf("%s leads to service %d, want %d", s.Frontend, t.Notes.Service.Id, s.Service)
	}
	return leads(s, explain.ScopeOf(t), t.Record.Backend, t.Verdict)
}

// leads fails if a backend is none of those planned, or if there is none though the frontend has some. A client
// that is not in the source ranges gets none.
func leads(s reconcile.Sample, scope bpf.Scope, backend uint32, verdict bpf.Verdict) error {
	switch {
	case backend == 0 && (scope.Count == 0 || verdict == bpf.VerdictDropSourceRange), slices.Contains(s.Backends, backend):
		return nil
	case backend == 0:
		return fmt.Errorf("%s leads to no backend (verdict %s), want one of %v", s.Frontend, bpf.VerdictName(verdict), s.Backends)
	}
	return fmt.Errorf("%s leads to backend %d, want one of %v", s.Frontend, backend, s.Backends)
}

// askSocket asks what would become of a connect of the node's own.
func (c *Canary) askSocket(s reconcile.Sample) error {
	if s.Frontend.Proto == unix.IPPROTO_SCTP {
		return nil
	}
	q := bpf.SocketQuestion{
		Netns: c.asker.host, Addr: maps.EncodeAddr(s.Frontend.Addr), Port: maps.NetPort(s.Frontend.Port),
		Protocol: s.Frontend.Proto, Family: unix.AF_INET6,
	}
	if s.Frontend.Addr.Is4() {
		q.Family = unix.AF_INET
	}
	notes, err := c.asker.twin.Socket(q, uint32(c.round))
	switch {
	case err != nil:
	case notes.Steps&bpf.TraceFrontend == 0:
		err = fmt.Errorf("%s is taken for no frontend", s.Frontend)
	case notes.Service.Id != s.Service:
		err = fmt.Errorf("%s leads to service %d, want %d", s.Frontend, notes.Service.Id, s.Service)
	default:
		err = leads(s, notes.Service.Internal, notes.Socket.Backend, bpf.Verdict(notes.Socket.Verdict))
	}
	if err != nil {
		return fmt.Errorf("sockets: %s: %w", s.Name, err)
	}
	return nil
}
