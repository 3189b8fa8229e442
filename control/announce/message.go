// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// version is that of the messages. An agent ignores messages of a later one.
const version = 1

// kind is what a message is for.
type kind string

const (
	kindState   kind = "state"   // what the sender offers and holds: all of it, or changes since the state before
	kindWant    kind = "want"    // asks for all of the receiver's state
	kindDigest  kind = "digest"  // which state the sender is at
	kindClaim   kind = "claim"   // asks for addresses
	kindAnswer  kind = "answer"  // to a claim
	kindRestart kind = "restart" // the sender's agent ends, and its kernel answers for some time
	kindNoted   kind = "noted"   // the answer to that
)

// Record is what a node says of an address.
type Record struct {
	Addr netip.Addr `json:"a"`
	Offer
	// Held is since when the node answers for it, in seconds since 1970; 0: it doesn't.
	Held int64 `json:"h,omitempty"`
	// Gone: the node has nothing to say of it any more.
	Gone bool `json:"g,omitempty"`
}

// message is what agents send each other.
type message struct {
	Version int    `json:"v"`
	Kind    kind   `json:"k"`
	Boot    string `json:"b"` // of the sender: which of the agent's processes it is
	// Seq counts the states of the sender.
	Seq uint64 `json:"s,omitempty"`
	// Full: the records are all there are, in place of changes of state Seq-1.
	Full bool `json:"f,omitempty"`
	// Ready: the sender has services in force. Until then its records of the process before count.
	Ready bool `json:"r,omitempty"`
	// Want asks for the receiver's state, too.
	Want bool `json:"w,omitempty"`
	// MACs are those of the sender's devices: what answers with one of them is no other host.
	MACs    []string `json:"i,omitempty"`
	Records []Record `json:"e,omitempty"`

	Claim  uint64       `json:"c,omitempty"` // number of a claim
	Resume bool         `json:"m,omitempty"` // the addresses are what the kernel of the sender answers for since before its restart
	For    string       `json:"o,omitempty"` // of an answer: Boot of the claim
	Denied []netip.Addr `json:"d,omitempty"`
	// Released are those that the sender of an answer has answered for until now.
	Released []netip.Addr `json:"l,omitempty"`
	// Wait is for how long the sender of an answer takes a kernel for alive whose agent is dead.
	Wait time.Duration `json:"t,omitempty"`

	Until time.Duration `json:"u,omitempty"` // of a restart: for how long, from when it was sent
	Addrs []netip.Addr  `json:"x,omitempty"`
	// Away are the members that restart, for those that have not heard it from them.
	Away []absence `json:"y,omitempty"`
}

// absence is a member that restarts.
type absence struct {
	Name  string        `json:"n"`
	Boot  string        `json:"b"`
	Until time.Duration `json:"u"`
	Addrs []netip.Addr  `json:"x,omitempty"`
}

func (m *message) encode() ([]byte, error) { return json.Marshal(m) }

func decode(raw []byte) (*message, error) {
	m := &message{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("message of another agent: %w", err)
	}
	if m.Version < 1 || m.Version > version {
		return nil, fmt.Errorf("message of version %d of another agent; this one knows %d", m.Version, version)
	}
	return m, nil
}
