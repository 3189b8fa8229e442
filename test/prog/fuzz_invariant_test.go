// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/model"
)

// invariants hold for every packet, independently of the model.
func (r *fuzzRun) invariants(v bpf.Verdict, in, out []byte) error {
	if v <= bpf.VerdictLeftToTC {
		if !bytes.Equal(in, out) {
			return errors.New("what is not ours was changed")
		}
		return nil
	}
	if model.Sound(in) && !model.Sound(out) {
		return fmt.Errorf("a checksum is wrong that was right\n  out  % x", out)
	}
	wasSrc, wasDst := model.Ends(in)
	src, dst := model.Ends(out)
	r.sources[wasSrc] = true
	known := func(a netip.Addr) bool { return a == wasDst || r.sources[a] || r.configured(a) }
	if !known(src) || !known(dst) {
		return fmt.Errorf("%s > %s: no service has these", src, dst)
	}
	return nil
}

// stays: while a flow lives its packets go to one backend. A packet that opens
// it anew is recognised.
func (r *fuzzRun) stays(hook bpf.Hook, v bpf.Verdict, opened bool, in, out []byte) error {
	t, ok := r.model.Led(hook, in)
	if !ok || r.torn || hook == bpf.HookTCEgress { // a late answer to an earlier flow may restore it
		return nil
	}
	if opened { // even if the packet is dropped
		delete(r.led, t)
	}
	if v != bpf.VerdictExpress && v != bpf.VerdictStack {
		return nil
	}
	_, dst := model.Ends(out)
	if before, known := r.led[t]; known && before.Addr() != dst {
		return fmt.Errorf("%s went to %s, and now to %s", t, before, dst)
	}
	r.led[t] = at(dst, 0)
	return nil
}

// configured reports whether an address is a frontend's, a backend's, the
// node's, or a client's of a flow.
func (r *fuzzRun) configured(a netip.Addr) bool {
	if r.model.IsOwn(a) {
		return true
	}
	for _, s := range r.script.Services {
		for _, b := range s.Backends {
			if b.Addr.Addr() == a {
				return true
			}
		}
		for _, f := range s.Frontends {
			if f.Addr.Addr() == a {
				return true
			}
		}
	}
	for _, f := range r.script.Flows {
		if f.Client.Addr() == a {
			return true
		}
	}
	return false
}
