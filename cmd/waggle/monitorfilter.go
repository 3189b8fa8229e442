// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// monitorFilter is what a monitor shows, in the words of the command line.
type monitorFilter struct {
	service, backend, client string
	verdicts                 []string
	drops, packets           bool

	// what check has read
	namespace, name string
	endpoint        netip.AddrPort // of port 0: of any
	network         netip.Prefix
}

// Verdicts that are no events of a monitor: frames whose addresses are not read, and calls that nothing follows from.
var onlyCounted = []bpf.Verdict{bpf.VerdictNotIP, bpf.VerdictUnparsed, bpf.VerdictVlan, bpf.VerdictSockRecvmsg, bpf.VerdictSockGetpeername}

// What is shown if no verdict is named: events; with --packets each packet of a flow or to a service; and with
// --client also what is left to the stack, which else is most of what a node sees.
var (
	eventVerdicts = slices.Concat([]bpf.Verdict{
		bpf.VerdictFlowOpened, bpf.VerdictFlowConfirmed, bpf.VerdictFlowClosed,
		bpf.VerdictRefused, bpf.VerdictTooBig, bpf.VerdictAnswered, bpf.VerdictAnnounced, bpf.VerdictSockConnect, bpf.VerdictSockSendmsg,
	}, dropVerdicts)
	dropVerdicts = []bpf.Verdict{
		bpf.VerdictDropNoLocalEndpoint, bpf.VerdictDropSNATExhausted, bpf.VerdictDropFlowsFull, bpf.VerdictDropNoFlow, bpf.VerdictDropTTL,
		bpf.VerdictDropNoRoute, bpf.VerdictDropSourceRange, bpf.VerdictDropUnallocated, bpf.VerdictDropError,
	}
	packetVerdicts = []bpf.Verdict{bpf.VerdictLeftToTC, bpf.VerdictExpress, bpf.VerdictStack, bpf.VerdictSource, bpf.VerdictICMPError}
	passedVerdicts = []bpf.Verdict{bpf.VerdictNotOurs, bpf.VerdictFragment}
)

// check reads the flags.
func (f *monitorFilter) check() (err error) {
	if f.service != "" {
		if f.namespace, f.name, err = splitName(f.service, "default", false); err != nil {
			return fmt.Errorf("--service %w", err)
		}
	}
	if f.backend != "" {
		if f.endpoint, err = parseEndpoint(f.backend); err != nil {
			return err
		}
	}
	if f.client != "" {
		if f.network, err = parseNetwork(f.client); err != nil {
			return err
		}
	}
	_, err = f.mask()
	return err
}

func parseEndpoint(s string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--backend %s: want an address, or address:port, as waggle backend list shows them", s)
	}
	return netip.AddrPortFrom(a.Unmap(), 0), nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--client %s: want an address or a network, as 192.168.1.0/24", s)
	}
	return p.Masked(), nil
}

// mask has a bit for each verdict that is shown.
func (f *monitorFilter) mask() (mask uint64, err error) {
	add := func(verdicts ...bpf.Verdict) {
		for _, v := range verdicts {
			mask |= 1 << v
		}
	}
	for _, word := range f.verdicts {
		v, err := verdictNamed(word)
		if err != nil {
			return 0, err
		}
		add(v)
	}
	if f.drops {
		add(dropVerdicts...)
	}
	if mask != 0 {
		return mask, nil
	}
	add(eventVerdicts...)
	if f.packets {
		add(packetVerdicts...)
	}
	if f.packets && f.client != "" {
		add(passedVerdicts...)
	}
	return mask, nil
}

func verdictNamed(word string) (bpf.Verdict, error) {
	var all []string
	for v := range bpf.VerdictCount {
		switch {
		case slices.Contains(onlyCounted, v):
			if bpf.VerdictName(v) == word {
				return 0, fmt.Errorf("--verdict %s: that is only counted: see waggle status", word)
			}
		case bpf.VerdictName(v) == word:
			return v, nil
		default:
			all = append(all, bpf.VerdictName(v))
		}
	}
	return 0, fmt.Errorf("--verdict %s: there is no such verdict: one of %s", word, strings.Join(all, ", "))
}

// options are the filter in the words of the kernel. What it names has to be there.
func (f *monitorFilter) options(names *monitorNames) (opts loader.WatchOptions, err error) {
	if opts.Verdicts, err = f.mask(); err != nil {
		return opts, err
	}
	if f.packets {
		opts.Flags |= bpf.WatchPackets
	}
	if f.network.IsValid() {
		opts.Flags |= bpf.WatchClient
		opts.Family = unix.AF_INET
		if f.network.Addr().Is6() {
			opts.Family = unix.AF_INET6
		}
		opts.Client, opts.Mask = addrWords(f.network.Addr()), addrWords(maskOf(f.network))
	}
	opts.Services, opts.Backends = f.ids(names)
	if f.service != "" {
		opts.Flags |= bpf.WatchServices
		if len(opts.Services) == 0 {
			return opts, fmt.Errorf("--service %s: service %s/%s is not in the datapath", f.service, f.namespace, f.name)
		}
	}
	if f.backend != "" {
		opts.Flags |= bpf.WatchBackends
		if len(opts.Backends) == 0 {
			return opts, fmt.Errorf("--backend %s: no backend in the datapath has this address", f.backend)
		}
	}
	return opts, nil
}

// addrWords are an address as the programs have it.
func addrWords(a netip.Addr) (w bpf.Addr) {
	b := a.AsSlice()
	for i := 0; i < len(b); i += 4 {
		w.Word[i/4] = binary.NativeEndian.Uint32(b[i:])
	}
	return w
}

// maskOf has the bits of a network's length.
func maskOf(p netip.Prefix) netip.Addr {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // of 4 or 16 bytes
	return a
}

// ids are those of the service and of the backend that the filter names.
func (f *monitorFilter) ids(names *monitorNames) (services, backends []uint32) {
	if f.service != "" {
		for id, name := range names.services {
			if name.Namespace == f.namespace && name.Name == f.name {
				services = append(services, id)
			}
		}
	}
	if f.backend != "" {
		for id, b := range names.backends {
			if b.Addr == f.endpoint.Addr() && (f.endpoint.Port() == 0 || b.Port == f.endpoint.Port()) {
				backends = append(backends, id)
			}
		}
	}
	return services, backends
}

// monitorNames are the names of what events mention by ids.
type monitorNames struct {
	view     *loader.View
	services map[uint32]maps.Name
	backends map[uint32]maps.Backend
	next     time.Time // when they may be read again
	devices  map[uint32]string
	booted   time.Time // see booted
}

// refresh reads the names, if that was not done just now. At most a tenth of a CPU is spent on it.
func (n *monitorNames) refresh() (err error) {
	if time.Now().Before(n.next) {
		return nil
	}
	before := cpuTime()
	if n.services, err = maps.NewNames(n.view).All(); err != nil {
		return err
	}
	if n.backends, err = maps.ReadBackends(n.view); err != nil {
		return err
	}
	n.devices, n.booted = map[uint32]string{}, booted()
	n.next = time.Now().Add(max(pollEvery, watchShare*(cpuTime()-before)))
	return nil
}
