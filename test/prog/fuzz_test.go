// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
)

var (
	fuzzFor  = flag.Duration("fuzz-for", 0, "send random packets through model and programs for so long (make fuzz)")
	fuzzSeed = flag.Uint64("fuzz-seed", 0, "begin with this seed instead of a random one")
	fuzzOnly = flag.Bool("fuzz-only-find", false, "don't shorten a script that fails")
	fuzzShow = flag.Bool("fuzz-show", false, "show every packet of the scripts in the corpus")
)

const (
	// The number of packets in a run as one of all tests.
	fuzzPackets = 30_000
	corpus      = "../model/testdata/corpus"
	// A script chooses at random: it passes if so many runs pass.
	fuzzTries = 8
)

// fuzzNodes are loaded when a script needs their settings.
type fuzzNodes map[int]*fuzzNode

func (n fuzzNodes) get(t testing.TB, setting int) *fuzzNode {
	t.Helper()
	if n[setting] == nil {
		node, err := newFuzzNode(setting)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(node.giveBack)
		n[setting] = node
	}
	return n[setting]
}

func quiet(string, ...any) {}

// TestModel: the datapath agrees with test/model on random nodes and random
// packets.
func TestModel(t *testing.T) {
	enter(t)
	nodes := make(fuzzNodes)
	seed := *fuzzSeed
	if seed == 0 {
		seed = rand.Uint64() >> 16
	}
	packets, scripts, start := 0, 0, time.Now()
	first := seed
	reached := make(tally)
	done := func() bool {
		if *fuzzFor > 0 {
			return time.Since(start) >= *fuzzFor
		}
		return packets >= fuzzPackets
	}
	for ; !done(); seed++ {
		s := generate(seed)
		n, err := nodes.get(t, s.Settings).play(s, false, quiet)
		reached.add(nodes[s.Settings].reached)
		packets, scripts = packets+n, scripts+1
		if err != nil {
			failed(t, nodes, s, err)
			return
		}
	}
	if testing.Verbose() {
		fmt.Print(reached)
	}
	took := time.Since(start)
	fmt.Printf("model: %d packets in %d scripts from seed %d, %.1f s, %.0f packets/s, no difference\n",
		packets, scripts, first, took.Seconds(), float64(packets)/took.Seconds())
}

// tally counts the verdicts of each hook.
type tally map[bpf.Hook]map[bpf.Verdict]int

func (t tally) add(counts map[bpf.Hook]map[bpf.Verdict]int) {
	for h, verdicts := range counts {
		if t[h] == nil {
			t[h] = make(map[bpf.Verdict]int)
		}
		for v, n := range verdicts {
			t[h][v] += n
		}
	}
}

func (t tally) String() string {
	var b strings.Builder
	for h := range bpf.HookSock {
		for v := range bpf.VerdictCount {
			if n := t[h][v]; n > 0 {
				fmt.Fprintf(&b, "%-12s %-24s %9d\n", bpf.HookName(h), bpf.VerdictName(v), n)
			}
		}
	}
	return b.String()
}

// failed shortens a failing script, and reports what is wrong with the rest.
func failed(t *testing.T, nodes fuzzNodes, s script, err error) {
	t.Errorf("seed %d: %v", s.Seed, err)
	if *fuzzOnly { // a failure is enough, it need not be explained
		return
	}
	node := nodes.get(t, s.Settings)
	fails := func(s script) bool {
		for range fuzzTries {
			if _, err := node.play(s, true, quiet); err != nil {
				return true
			}
		}
		return false
	}
	if !fails(s) {
		t.Errorf("it did not happen again")
		return
	}
	s = shrink(s, fails)
	for range 10 * fuzzTries {
		var log strings.Builder
		_, err := node.play(s, true, func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) })
		if err != nil {
			t.Errorf("shortened:\n%s\n%s%v", s, log.String(), err)
			return
		}
	}
}

// TestModelCorpus: scripts that have found a fault before.
func TestModelCorpus(t *testing.T) {
	enter(t)
	nodes := make(fuzzNodes)
	files, err := filepath.Glob(corpus + "/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", corpus, err)
	}
	log := quiet
	if *fuzzShow {
		log = t.Logf
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseScript(f)
		f.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range fuzzTries {
			if _, err := nodes.get(t, s.Settings).play(s, true, log); err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
		}
	}
}
