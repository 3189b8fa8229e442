// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Takeover leaves to the kernel the connections that the kernel translates already, as those that
// kube-proxy's rules have opened: it goes on with them by its table of connections, whether or not
// the rules are still there. The datapath is told of each by a pair of records.
//
// It does so while the datapath comes into force on a node where it wasn't. From then on there are
// no new ones that it could be asked about.
type Takeover struct {
	dp   *loader.Datapath
	log  *logrus.Entry
	warn func(error)

	mu      sync.Mutex
	pending map[step]bool
	keeping bool // the kernel's NAT
}

// step is one of the two that bring the datapath into force, in either order.
type step int

const (
	attaching  step = iota // programs to devices
	publishing             // services
)

// newTakeover finds out which of the steps an earlier agent has taken. Programs that are attached
// leave everything to the kernel until services are there.
func newTakeover(dp *loader.Datapath, published bool, warn func(error), log *logrus.Entry) (*Takeover, error) {
	t := &Takeover{dp: dp, log: log, warn: warn, pending: map[step]bool{}}
	var err error
	if t.keeping, err = keepsNAT(); err != nil {
		log.WithError(err).Debug("looking for what an earlier agent has left")
	}
	links, err := dp.Links()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(links, func(l loader.LinkStatus) bool { return l.Ifindex != 0 && l.Attached }) {
		t.pending[attaching], t.pending[publishing] = true, true
	}
	if !published {
		t.pending[publishing] = true
	}
	return t, nil
}

// begin comes before a step: no packet of what is there shall be mistaken for the datapath's own.
func (t *Takeover) begin(s step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending[s] {
		t.adopt()
	}
}

// end comes after it, and finds what has come meanwhile.
func (t *Takeover) end(s step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending[s] {
		t.adopt()
		delete(t.pending, s)
	}
}

// counted is told how many records of such connections are left. The last that goes takes along
// what was done for them.
func (t *Takeover) counted(records uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if records > 0 || !t.keeping || len(t.pending) > 0 {
		return
	}
	if _, err := ReleaseNAT(); err != nil {
		t.warn(err)
		return
	}
	t.keeping = false
	t.warn(nil)
	t.log.Info("the last connection that was left to the kernel has ended")
}

// adopt is no reason to fail: most nodes have nothing to be adopted.
func (t *Takeover) adopt() {
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		entries, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.log.WithError(err).Debug("the kernel's table of connections can't be read; none is taken over")
			continue
		}
		adopted, err := t.record(entries)
		if err != nil {
			t.log.WithError(err).Error("taking over the kernel's connections: some break")
		}
		if adopted > 0 {
			t.keep()
			t.log.WithField("connections", adopted).Info("connections that the kernel translates are left to it")
		}
	}
}

func (t *Takeover) keep() {
	if t.keeping {
		return
	}
	if err := keepNAT(); err != nil {
		t.warn(fmt.Errorf("they break if the last rules go that need the kernel's NAT: %w", err))
		return
	}
	t.keeping = true
}

func (t *Takeover) record(entries []*netlink.ConntrackFlow) (adopted int, err error) {
	for _, entry := range entries {
		if !translated(entry) {
			continue
		}
		new := false
		for _, record := range foreign(entry) {
			added, err := t.dp.Adopt(record.Adoption())
			if err != nil {
				return adopted, fmt.Errorf("%s: %w", entry, err)
			}
			new = new || added
		}
		if new {
			adopted++
		}
	}
	return adopted, nil
}

// translated: as a service's connections are, and not over.
func translated(entry *netlink.ConntrackFlow) bool {
	switch entry.Forward.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	default:
		return false
	}
	if tcp, ok := entry.ProtoInfo.(*netlink.ProtoInfoTCP); ok &&
		(tcp.State == nl.TCP_CONNTRACK_TIME_WAIT || tcp.State == nl.TCP_CONNTRACK_CLOSE) {
		return false
	}
	return entry.Zone == 0 &&
		destinationOf(&entry.Forward) != sourceOf(&entry.Reverse) && sourceOf(&entry.Reverse).Addr().IsValid()
}

// foreign makes the records of both directions. Where its packets come in, from outside or from a
// pod, the kernel's table does not say: there is a pair for each. The reply's keeps us from using
// its port, where it is an address of ours, for another flow to the same backend.
func foreign(entry *netlink.ConntrackFlow) []maps.Flow {
	state := bpf.StateAnswered | bpf.StateConfirmed
	var records []maps.Flow
	for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
		request := maps.Tuple{Src: sourceOf(&entry.Forward), Dst: destinationOf(&entry.Forward), Proto: entry.Forward.Protocol, Zone: zone}
		reply := maps.Tuple{Src: sourceOf(&entry.Reverse), Dst: destinationOf(&entry.Reverse), Proto: entry.Forward.Protocol, Zone: zone}
		flags := bpf.FlowForeign | uint16(zone)*bpf.FlowMirrorZone
		records = append(records,
			maps.Flow{Key: request, To: maps.Tuple{Src: reply.Dst, Dst: reply.Src, Proto: reply.Proto, Zone: zone}, State: state, Flags: flags},
			maps.Flow{Key: reply, To: maps.Tuple{Src: request.Dst, Dst: request.Src, Proto: reply.Proto, Zone: zone}, State: state, Flags: flags | bpf.FlowReply})
	}
	return records
}

func sourceOf(t *netlink.IPTuple) netip.AddrPort      { return addrPort(t.SrcIP, t.SrcPort) }
func destinationOf(t *netlink.IPTuple) netip.AddrPort { return addrPort(t.DstIP, t.DstPort) }

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// sink is the proxy, told of the source's end of delivery after what it must come after.
type sink struct {
	*Proxy
	takeover *Takeover
}

// OnSynced is part of source.Sink.
func (s sink) OnSynced() {
	s.takeover.begin(publishing)
	s.Proxy.OnSynced()
}
