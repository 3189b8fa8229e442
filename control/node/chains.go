// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netfilter"
	"github.com/waggle-lb/waggle/maps"
)

// lookAtChains reports chains of netfilter that block packets to or from endpoints on this node, and the
// owner's rules for packets that do not pass their chain.
func (s *Surroundings) lookAtChains() {
	rules, err := netfilter.Read()
	if err != nil {
		s.opts.Warn("chains", []string{fmt.Sprintf("chains: %v", err)})
		return
	}
	defer rules.Close()
	warnings, notices, err := s.barredEndpoints(rules)
	passed, err2 := s.passedChains(rules)
	if err = cmp.Or(err, err2); err != nil { // the rules have changed meanwhile
		s.log.WithError(err).Debug("reading the chains of netfilter")
		return
	}
	s.opts.Warn("chains", warnings)
	s.opts.Note("chains", append(notices, passed...))
}

// endpointPackets are the packets to and from an endpoint on this node that the kernel forwards.
type endpointPackets struct {
	endpoint         string
	request, answers netfilter.Packet
}

// forwarded lists these packets. It leaves out endpoints that are the node itself.
func (s *Surroundings) forwarded() []endpointPackets {
	seen := map[maps.Frontend]bool{}
	s.opts.Services.EachBackend(func(b maps.Backend) {
		if b.Local {
			seen[maps.Frontend{Addr: b.Addr, Port: b.Port, Proto: b.Proto}] = true
		}
	})
	devices := map[netip.Addr]string{}
	var out []endpointPackets
	for e := range seen {
		device, known := devices[e.Addr]
		if !known {
			device = deviceTo(e.Addr)
			devices[e.Addr] = device
		}
		if device == "" {
			continue
		}
		out = append(out, endpointPackets{
			endpoint: e.String(),
			request:  netfilter.Packet{IPv6: e.Addr.Is6(), Dst: e.Addr, Proto: e.Proto, DstPort: e.Port, Out: device},
			answers:  netfilter.Packet{IPv6: e.Addr.Is6(), Src: e.Addr, Proto: e.Proto, In: device, Reply: true},
		})
	}
	slices.SortFunc(out, func(a, b endpointPackets) int { return cmp.Compare(a.endpoint, b.endpoint) })
	return out
}

// deviceTo returns the device that leads to a pod; empty if there is none.
func deviceTo(addr netip.Addr) string {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Type == unix.RTN_LOCAL {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

// barredEndpoints judges the packets of endpoints on this node by each chain on their way.
func (s *Surroundings) barredEndpoints(rules *netfilter.Rules) (warnings, notices []string, err error) {
	chains := rules.At(netfilter.Forward)
	if len(chains) == 0 {
		return nil, nil, nil
	}
	packets := s.forwarded()
	for _, c := range chains {
		barred := map[netfilter.Fate][]string{}
		for _, p := range packets {
			fate, err := judgeBoth(c, p)
			if err != nil {
				return nil, nil, err
			}
			barred[fate] = append(barred[fate], p.endpoint)
		}
		if list := barred[netfilter.Drops]; len(list) > 0 {
			warnings = append(warnings, fmt.Sprintf("chain %s (%s) blocks packets to or from endpoints on this node: %s "+
				"(add rules that accept packets to pods, and their answers)", c, policy(c), andMore(list)))
		}
		if list := barred[netfilter.MayDrop]; len(list) > 0 && c.Drops {
			notices = append(notices, fmt.Sprintf("chain %s (%s) may block packets to or from endpoints on this node: %s "+
				"(waggle can't know beforehand whether one of its rules accepts them)", c, policy(c), andMore(list)))
		}
	}
	return warnings, notices, nil
}

func judgeBoth(c *netfilter.Chain, p endpointPackets) (netfilter.Fate, error) {
	request, err := c.Judge(p.request)
	if err != nil {
		return request, err
	}
	answers, err := c.Judge(p.answers)
	return max(request, answers), err
}

func policy(c *netfilter.Chain) string {
	if c.Drops {
		return "policy drop"
	}
	return "policy accept"
}

// andMore returns the first of a list, and the number of the others.
func andMore(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return fmt.Sprintf("%s and %d more", list[0], len(list)-1)
}
