// SPDX-License-Identifier: Apache-2.0

package explain

import "net/netip"

// Answer is what would happen to a packet or a socket.
type Answer struct {
	Asked string `json:"asked"` // in words
	Hooks []Hook `json:"hooks"` // in the order in which it meets them
	Note  string `json:"note,omitempty"`
}

// Hook is what one program would do.
type Hook struct {
	Hook    string `json:"hook"` // xdp, tc-ingress, tc-egress, tc-pod, sock
	Device  string `json:"device,omitempty"`
	Program string `json:"program"`
	// Steps lead to the decision, each with what decided it.
	Steps []Step `json:"steps"`
	// Outcomes has one element, or one for each endpoint that the program may choose.
	Outcomes []Outcome `json:"outcomes"`
}

// Step is one of the steps that all programs take.
type Step struct {
	Name string `json:"step"`
	Is   string `json:"is"` // in words
}

// Outcome is what happens to the packet if the program chooses one endpoint, or none.
type Outcome struct {
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	Backend  uint32         `json:"backend,omitempty"` // id
	Share    float64        `json:"share,omitempty"`   // of new flows, if the choice is random
	Way      string         `json:"way,omitempty"`     // express, turn, split, stack, socket, foreign
	Source   string         `json:"source,omitempty"`  // as rewritten; empty: it stays
	Dest     string         `json:"destination,omitempty"`
	NextHop  string         `json:"nextHop,omitempty"`
	Verdict  string         `json:"verdict"`
	Action   string         `json:"action"` // passed on (to the next program or the stack), sent, dropped; failed, of a call
	Opens    bool           `json:"opens,omitempty"`
	Confirms bool           `json:"confirms,omitempty"`
	Reason   string         `json:"reason"`
	Advice   string         `json:"advice,omitempty"`
}

// same reports whether two outcomes differ by the endpoint at most.
func (o Outcome) same(other Outcome) bool {
	return o.Verdict == other.Verdict && o.Way == other.Way && o.Reason == other.Reason && o.NextHop == other.NextHop && o.Source == other.Source
}

// Groups puts outcomes together that differ by their endpoint only.
func (h *Hook) Groups() [][]Outcome {
	var groups [][]Outcome
outcomes:
	for _, o := range h.Outcomes {
		for i, g := range groups {
			if g[0].same(o) {
				groups[i] = append(g, o)
				continue outcomes
			}
		}
		groups = append(groups, []Outcome{o})
	}
	return groups
}
