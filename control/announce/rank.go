// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"cmp"
	"net/netip"
)

// Reason says why a node does not offer itself for an address. The values are part of the messages between agents.
type Reason string

// The reasons.
const (
	Offered  Reason = ""         // it does
	Unknown  Reason = "unknown"  // the node does not know of the address
	Excluded Reason = "excluded" // the node has the label node.kubernetes.io/exclude-from-external-load-balancers
	Selector Reason = "selector" // no document that has the address announced selects the node
	Endpoint Reason = "endpoint" // externalTrafficPolicy Local, and no ready endpoint on the node
	Device   Reason = "device"   // no device with the address's subnet, or none of those that are listed
	Carrier  Reason = "carrier"  // the device has no link
	Conflict Reason = "conflict" // another host has the address
	Failed   Reason = "failed"   // the kernel can't be made to answer
	Other    Reason = "other"    // another program announces the address: then no node does
)

// words are the reasons for people.
var words = map[Reason]string{
	Unknown: "does not know of it", Excluded: "excluded by its label", Selector: "not selected", Endpoint: "no ready endpoint",
	Device: "no device for it", Carrier: "no link", Conflict: "another host has it", Failed: "can't answer",
	Other: "announced by another program",
}

// Offer is how willing a node is to answer for an address.
type Offer struct {
	Not Reason `json:"n,omitempty"`
	// Note is more about the reason, for people.
	Note string `json:"t,omitempty"`
	// Last: the node is cordoned. It is taken only if no node is that isn't.
	Last bool `json:"l,omitempty"`
	// Weight is what the documents prefer the node by; the highest goes first.
	Weight int32 `json:"w,omitempty"`
}

// candidate is a node that offers itself.
type candidate struct {
	name string
	Offer
}

// compareCandidates orders the candidates of an address: the first one is chosen.
func compareCandidates(addr netip.Addr, a, b candidate) int {
	if a.Last != b.Last {
		if b.Last {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(b.Weight, a.Weight), compareScores(addr, a.name, b.name))
}

// compareScores is the order of names alone, in which all nodes agree always: which of two that want an address at one
// time is first, and which of two that have it keeps it.
func compareScores(addr netip.Addr, a, b string) int {
	return cmp.Or(cmp.Compare(score(addr, b), score(addr, a)), cmp.Compare(a, b))
}

// choose returns the candidate that is first; false: there is none.
func choose(addr netip.Addr, all []candidate) (first candidate, ok bool) {
	for i, c := range all {
		if i == 0 || compareCandidates(addr, c, first) < 0 {
			first = c
		}
	}
	return first, len(all) > 0
}

// score is a hash of an address and a name: FNV-1a, whose bits are mixed by the last step of SplitMix64. All versions of
// the agent must compute the same.
func score(addr netip.Addr, name string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for _, b := range addr.As16() {
		h = (h ^ uint64(b)) * prime
	}
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * prime
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
