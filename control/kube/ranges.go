// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"

	networking "k8s.io/api/networking/v1"

	"github.com/waggle-lb/waggle/control/source"
)

// ranges are the ranges that cluster IPs are allocated from: those of the API server or, as long as
// it has reported none, the configured ones.
type ranges struct {
	sink  source.Sink
	given []netip.Prefix
	all   map[string][]netip.Prefix // by the name of the object
	begun bool
	sent  []netip.Prefix // to the sink
}

func newRanges(sink source.Sink, given []netip.Prefix) *ranges {
	return &ranges{sink: sink, given: given, all: map[string][]netip.Prefix{}}
}

// begin passes the first ranges to the sink.
func (r *ranges) begin() {
	r.begun = true
	r.send()
}

func (r *ranges) follow(old, new *networking.ServiceCIDR) {
	if new == nil {
		delete(r.all, old.Name)
	} else {
		r.all[new.Name] = prefixes(new)
	}
	r.send()
}

func (r *ranges) send() {
	now := slices.Clone(r.given)
	if len(r.all) > 0 {
		now = nil
		for _, p := range r.all {
			now = append(now, p...)
		}
		slices.SortFunc(now, netip.Prefix.Compare)
		now = slices.Compact(now)
	}
	if r.begun && !slices.Equal(now, r.sent) {
		r.sent = now
		r.sink.OnServiceCIDRs(now)
	}
}

func prefixes(s *networking.ServiceCIDR) (all []netip.Prefix) {
	for _, cidr := range s.Spec.CIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}
