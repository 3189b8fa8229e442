// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// script is a node's configuration and a series of events. It stays valid when a part of it is left
// out, so its packets are described by their flow, not by bytes.
type script struct {
	Seed     uint64          `json:"seed"`
	Settings int             `json:"settings"` // one of fuzzSettings
	Local    []netip.Prefix  `json:"local,omitempty"`
	CIDRs    []scriptRange   `json:"cidrs,omitempty"`
	Services []scriptService `json:"services,omitempty"`
	Flows    []scriptFlow    `json:"flows,omitempty"`

	Steps []step `json:"-"` // a line each
}

type scriptRange struct {
	Prefix netip.Prefix `json:"prefix"`
	Drop   bool         `json:"drop,omitempty"`
}

// scriptService is a service port of one family and protocol.
type scriptService struct {
	ID        uint32           `json:"id"`
	Proto     uint8            `json:"proto"`
	V6        bool             `json:"v6,omitempty"`
	Affinity  int              `json:"affinity,omitempty"`
	Ranges    []netip.Prefix   `json:"ranges,omitempty"`
	Backends  []scriptBackend  `json:"backends,omitempty"`
	Frontends []scriptFrontend `json:"frontends"`
}

type scriptBackend struct {
	Addr netip.AddrPort `json:"addr"`
	In   membership     `json:"in"`
}

// membership is the sets of its service that a backend is in.
type membership int

const (
	inCluster membership = 1 << iota
	inSelf
	inNone // but it still serves its flows
)

type scriptFrontend struct {
	Addr          netip.AddrPort `json:"addr"`
	Kind          int            `json:"kind,omitempty"`
	ExternalLocal bool           `json:"external_local,omitempty"`
	InternalLocal bool           `json:"internal_local,omitempty"`
}

// scriptFlow is a client with a destination.
type scriptFlow struct {
	Proto  uint8          `json:"proto"`
	Client netip.AddrPort `json:"client"`
	To     netip.AddrPort `json:"to"`
	From   string         `json:"from"` // the device that its packets come in by
}

// step is one event.
type step struct {
	Op     string     `json:"op"`
	N      int        `json:"n,omitempty"` // seconds, or an index
	In     membership `json:"in,omitempty"`
	Packet *packetOf  `json:"packet,omitempty"`
}

// packetOf is a packet of a flow.
type packetOf struct {
	Flow    int    `json:"flow"`
	Way     int    `json:"way,omitempty"`
	Hook    string `json:"hook,omitempty"` // "": all hooks on its path, one after the other
	Device  string `json:"device,omitempty"`
	Flags   uint8  `json:"flags,omitempty"` // TCP's; for SCTP the chunk
	Seq     int32  `json:"seq,omitempty"`   // relative to the expected one
	Ack     int32  `json:"ack,omitempty"`
	Size    int    `json:"size,omitempty"` // of the payload
	TTL     uint8  `json:"ttl"`
	TOS     uint8  `json:"tos,omitempty"`
	Content uint64 `json:"content,omitempty"`

	Parts int    `json:"parts,omitempty"` // the packet comes in so many parts, of which this is one
	Part  int    `json:"part,omitempty"`
	ID    uint16 `json:"id,omitempty"`

	Error  int  `json:"error,omitempty"` // an ICMP message about such a packet: its type and code
	Quote  int  `json:"quote,omitempty"` // bytes of the transport data that it quotes
	Router bool `json:"router,omitempty"`

	Wrong []wrong `json:"wrong,omitempty"`
}

// wrong is a corruption of a frame.
type wrong struct {
	What string `json:"what"`
	N    int    `json:"n,omitempty"`
}

// The packets of a flow.
const (
	request   = iota // from the client
	reply            // from the backend
	between          // the client's packet of a split flow, after ingress
	direct           // from the client to its backend, not through the service
	different        // of another protocol between the same addresses
	arriving         // the client's packet, as the backend gets it
	arrived          // the backend's packet, as the client gets it: errors are about these two
)

func (s script) String() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	must(e.Encode(s))
	for _, st := range s.Steps {
		must(e.Encode(st))
	}
	return b.String()
}

func parseScript(r io.Reader) (s script, err error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("configuration: %w", err)
	}
	for {
		var st step
		if err := d.Decode(&st); errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return s, fmt.Errorf("step %d: %w", len(s.Steps), err)
		}
		s.Steps = append(s.Steps, st)
	}
}

// shrink leaves out parts of a failing script as long as it still fails, until it is short. Choices
// are random, so each attempt runs several times.
func shrink(s script, fails func(script) bool) script {
	for again := true; again; {
		again = false
		for size := len(s.Steps); size > 0; size /= 2 {
			for i := 0; i+size <= len(s.Steps); {
				less := s
				less.Steps = slices.Delete(slices.Clone(s.Steps), i, i+size)
				if fails(less) {
					s, again = less, true
				} else {
					i += size
				}
			}
		}
		for i := range s.Steps {
			for _, less := range simpler(s.Steps[i]) {
				try := s
				try.Steps = slices.Clone(s.Steps)
				try.Steps[i] = less
				if fails(try) {
					s, again = try, true
				}
			}
		}
		for _, less := range smaller(s) {
			if fails(less) {
				s, again = less, true
				break
			}
		}
	}
	return s
}

// smaller returns scripts with a smaller configuration.
func smaller(s script) (list []script) {
	for i := range s.Services {
		if less := s.Services[i]; len(less.Backends) > 0 || len(less.Frontends) > 0 {
			list = append(list, s.with(i, scriptService{ID: less.ID, Proto: less.Proto, V6: less.V6}))
			for j := range less.Frontends {
				l := less
				l.Frontends = slices.Delete(slices.Clone(l.Frontends), j, j+1)
				list = append(list, s.with(i, l))
			}
			if n := len(less.Backends); n > 0 { // the last one, otherwise the others would get other numbers
				less.Backends = less.Backends[:n-1]
				list = append(list, s.with(i, less))
			}
		}
	}
	for i := range s.Local {
		less := s
		less.Local = slices.Delete(slices.Clone(s.Local), i, i+1)
		list = append(list, less)
	}
	for i := range s.CIDRs {
		less := s
		less.CIDRs = slices.Delete(slices.Clone(s.CIDRs), i, i+1)
		list = append(list, less)
	}
	if n := len(s.Services); n > 0 {
		less := s
		less.Services = s.Services[:n-1]
		list = append(list, less)
	}
	if n := len(s.Flows); n > 0 {
		less := s
		less.Flows = s.Flows[:n-1]
		list = append(list, less)
	}
	return list
}

func (s script) with(i int, service scriptService) script {
	s.Services = slices.Clone(s.Services)
	s.Services[i] = service
	return s
}

// simpler returns a step's packets with one special property less.
func simpler(st step) (list []step) {
	if st.Packet == nil {
		return nil
	}
	try := func(change func(*packetOf) bool) {
		p := *st.Packet
		if change(&p) {
			less := st
			less.Packet = &p
			list = append(list, less)
		}
	}
	for i := range st.Packet.Wrong {
		try(func(p *packetOf) bool { p.Wrong = slices.Delete(slices.Clone(p.Wrong), i, i+1); return true })
	}
	try(func(p *packetOf) bool { was := p.Size; p.Size = 0; return was != 0 })
	try(func(p *packetOf) bool { was := p.TOS; p.TOS = 0; return was != 0 })
	try(func(p *packetOf) bool { was := p.Content; p.Content = 0; return was != 0 })
	try(func(p *packetOf) bool { was := p.Seq; p.Seq = 0; return was != 0 })
	return list
}
