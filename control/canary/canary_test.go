// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

func newTestCanary() (c *Canary, reports *[]string) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	reports = &[]string{}
	return New(Options{Report: func(err error) { *reports = append(*reports, fmt.Sprint(err)) }}, logrus.NewEntry(log)), reports
}

// TestJudge: one bad round says nothing, nor do a few good ones after bad ones.
func TestJudge(t *testing.T) {
	broken := errors.New("the program is not attached")
	for _, tc := range []struct {
		name   string
		rounds string // b for bad, g for good
		want   []string
	}{
		{"good", "ggg", nil},
		{"one bad round", "gbgbgb", nil},
		{"two bad rounds", "bb", []string{broken.Error()}},
		{"reported once", "bbbb", []string{broken.Error()}},
		{"flaps", "bbggggbggggb", []string{broken.Error()}},
		{"good again", "bbggggg", []string{broken.Error(), "<nil>"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, reports := newTestCanary()
			for _, round := range tc.rounds {
				c.judge(map[rune]error{'b': broken}[round])
			}
			if diff := cmp.Diff(tc.want, *reports, cmp.Transformer("", func(s []string) string { return strings.Join(s, "\n") })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRefusedTwins: they are tried again, but not each second.
func TestRefusedTwins(t *testing.T) {
	c, _ := newTestCanary()
	c.refused(errors.New("no memory"))
	for range restRounds {
		if c.prepare(nil) {
			t.Fatal("nothing was refused")
		}
	}
	if c.rest != 0 {
		t.Errorf("after %d rounds another %d pass before the next try", restRounds, c.rest)
	}
}

func TestOneLine(t *testing.T) {
	c, _ := newTestCanary()
	for range badRounds {
		c.judge(errors.Join(errors.New("one"), errors.New("another")))
	}
	if got := fmt.Sprint(c.Err()); got != "one; another" {
		t.Errorf("%q, want one line", got)
	}
}

func TestIsThere(t *testing.T) {
	want := status.Link{Device: "eth0", Ifindex: 2, Hook: "xdp", Program: "waggle_xdp"}
	for _, tc := range []struct {
		name  string
		found []loader.LinkStatus
		err   string
	}{
		{"attached", []loader.LinkStatus{{Hook: "xdp", Attached: true}}, ""},
		{"the device has gone", nil, ""},
		{"detached", []loader.LinkStatus{{Hook: "xdp"}, {Hook: "tc-ingress", Attached: true}}, "xdp of eth0: the program waggle_xdp is not attached"},
		{"another hook only", []loader.LinkStatus{{Hook: "tc-ingress", Attached: true}}, "xdp of eth0: the program waggle_xdp is not attached"},
	} {
		if got := isThere(want, tc.found); fmt.Sprint(got) != fmt.Sprint(errOrNil(tc.err)) {
			t.Errorf("%s: %v, want %q", tc.name, got, tc.err)
		}
	}
}

func errOrNil(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

// TestTurn: each program is looked at in each round, and each of its devices in its turn.
func TestTurn(t *testing.T) {
	c, _ := newTestCanary()
	links := []status.Link{
		{Device: "eth0", Program: "waggle_ingress"}, {Device: "eth1", Program: "waggle_ingress"}, {Device: "eth0", Program: "waggle_xdp"},
	}
	seen := map[string]bool{}
	for c.round = range 2 {
		picked := c.turn(links)
		if len(picked) != 2 {
			t.Fatalf("round %d: %v, want one device of each program", c.round, picked)
		}
		for _, l := range picked {
			seen[l.Device+" "+l.Program] = true
		}
	}
	if len(seen) != len(links) {
		t.Errorf("seen in two rounds: %v, want each device", seen)
	}
}

// TestLeads: where a packet may be led.
func TestLeads(t *testing.T) {
	s := reconcile.Sample{Backends: []uint32{3, 4}}
	some := bpf.Scope{Count: 2}
	for _, tc := range []struct {
		name    string
		scope   bpf.Scope
		backend uint32
		verdict bpf.Verdict
		ok      bool
	}{
		{"to one of them", some, 4, bpf.VerdictExpress, true},
		{"to another's", some, 5, bpf.VerdictExpress, false},
		{"to none", some, 0, bpf.VerdictRefused, false},
		{"there is none", bpf.Scope{}, 0, bpf.VerdictRefused, true},
		{"not for this client", some, 0, bpf.VerdictDropSourceRange, true},
	} {
		if err := leads(s, tc.scope, tc.backend, tc.verdict); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
