// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/waggle-lb/waggle/control/netfilter"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// passedChains reports the owner's rules that would filter packets of services, but don't. They
// match addresses and ports that waggle has translated before any chain sees them, or are in a chain
// that the express way does not pass.
func (s *Surroundings) passedChains(rules *netfilter.Rules) ([]string, error) {
	var notices []string
	packets := sync.OnceValues(s.fromOutside) // there are many, and most nodes have no chain that needs them
	for _, hook := range []netfilter.Hook{netfilter.Ingress, netfilter.Prerouting, netfilter.Input, netfilter.Forward} {
		for _, c := range rules.At(hook) {
			notice, err := passedChain(c, packets)
			if err != nil {
				return nil, err
			}
			if notice != "" {
				notices = append(notices, notice)
			}
		}
	}
	return notices, nil
}

func passedChain(c *netfilter.Chain, packets func() (before []servicePacket, express []netfilter.Packet)) (string, error) {
	// Most chains filter no packet at all, which this check finds quickly.
	some, err := c.Filters([]netfilter.Packet{{}, {IPv6: true}})
	if err != nil || !some {
		return "", err
	}
	before, express := packets()
	if c.Hook != netfilter.Forward { // in FORWARD, other proxies have translated too
		named, err := translatedFirst(c, before)
		if err != nil {
			return "", err
		}
		if named != "" {
			return fmt.Sprintf("chain %s: its rules for packets to services, such as %s, have no effect: "+
				"waggle translates what is for a service before any chain sees it (docs/kubernetes.md, Firewalls)", c, named), nil
		}
	}
	if c.Hook == netfilter.Input { // packets for other nodes never come here
		return "", nil
	}
	passed, err := c.Filters(express)
	if err != nil || !passed {
		return "", err
	}
	return fmt.Sprintf("chain %s: it would drop or mark packets of services, but what comes from outside for endpoints "+
		"on other nodes passes no chain (docs/kubernetes.md, Firewalls; --express=off)", c), nil
}

// servicePacket is a packet to a frontend, as its client sends it.
type servicePacket struct {
	frontend string
	packet   netfilter.Packet
}

// fromOutside lists the packets that come in from outside: before, as they come; express, those of
// them that take the express way, as a chain would see them.
func (s *Surroundings) fromOutside() (before []servicePacket, express []netfilter.Packet) {
	devices, passing := s.outsideDevices()
	s.opts.Services.EachFrontend(func(f maps.Frontend, kind maps.Kind) {
		if kind == maps.ClusterIP {
			return
		}
		for _, in := range devices {
			p := netfilter.Packet{IPv6: f.Addr.Is6(), Proto: f.Proto, DstPort: f.Port, In: in}
			if !f.Addr.IsUnspecified() {
				p.Dst = f.Addr
			}
			before = append(before, servicePacket{f.String(), p})
		}
	})
	seen := map[maps.Frontend]bool{}
	s.opts.Services.EachBackend(func(b maps.Backend) {
		at := maps.Frontend{Addr: b.Addr, Port: b.Port, Proto: b.Proto}
		if b.Local || seen[at] {
			return
		}
		seen[at] = true
		for _, in := range passing {
			express = append(express, netfilter.Packet{IPv6: b.Addr.Is6(), Dst: b.Addr, Proto: b.Proto, DstPort: b.Port, In: in})
		}
	})
	return before, express
}

// outsideDevices returns the external devices, and those whose packets may take the express way: all
// of them, if any can transmit.
func (s *Surroundings) outsideDevices() (all, express []string) {
	open := false
	for _, d := range s.opts.Devices.Status() {
		if d.Role == status.RoleExternal {
			all = append(all, d.Name)
		}
		open = open || d.Express
	}
	if open {
		express = all
	}
	return all, express
}

// translatedFirst names a frontend that rules of a chain match: they would filter a packet to it,
// but not the same packet to another address and port.
func translatedFirst(c *netfilter.Chain, packets []servicePacket) (string, error) {
	for _, p := range packets {
		filtered, err := c.Filters([]netfilter.Packet{p.packet})
		if err != nil {
			return "", err
		}
		if !filtered {
			continue
		}
		other := p.packet
		other.Dst, other.DstPort = netip.MustParseAddr("192.0.2.1"), 1
		if other.IPv6 {
			other.Dst = netip.MustParseAddr("2001:db8::1")
		}
		if filtered, err = c.Filters([]netfilter.Packet{other}); err != nil || !filtered {
			return p.frontend, err
		}
	}
	return "", nil
}
