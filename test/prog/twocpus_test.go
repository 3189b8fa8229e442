// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

var rounds = flag.Int("rounds", 2000, "how often each race between two CPUs is repeated (make test-two-cpus)")

const (
	// batchSize is how many rounds share the flow tables, which are emptied after them.
	batchSize = 250
	// sweep is the largest distance between the beginnings of a round on the two CPUs, in turns of
	// a busy loop. A turn takes a third of a nanosecond, and a test run of a program takes a few
	// microseconds.
	sweep = 8000
	// patience is how many turns a CPU waits for the other one before it yields to others.
	patience = 1 << 14
)

// roomy ensures that no flow of a batch replaces another one. The tables are so large that none of
// its records finds its first set full. There are so many source ports that none is tried three
// times in vain. (With 16,384 ports, one batch in a thousand had a flow that took over another's.)
var roomy = setting{name: "roomy", apply: func(spec *ebpf.CollectionSpec) error {
	for _, family := range []string{"4", "6"} {
		spec.Maps["flows"+family].MaxEntries = bpf.SetsForFlows(32 * batchSize)
	}
	return spec.Variables["snat_min"].Set(uint16(1024))
}}

// race repeats what two CPUs do at the same time, and counts errors.
type race struct {
	*node
	path
	variant
	rounds  int
	base    int               // rounds in the batches before
	wrongs  map[string]int    // counts, by kind of error
	example map[string]string // the first error of each kind
}

func newRace(t *testing.T, v variant, p path, settings ...setting) *race {
	t.Helper()
	enter(t)
	twoCPUs(t)
	return &race{
		node: newNode(t, settings...), path: p, variant: v, rounds: *rounds,
		wrongs: make(map[string]int), example: make(map[string]string),
	}
}

// forEachRace runs a test for each variant and path given.
func forEachRace(t *testing.T, vs []variant, ps []path, test func(*testing.T, variant, path)) {
	for _, p := range ps {
		t.Run(p.name, func(t *testing.T) {
			for _, v := range vs {
				t.Run(v.name, func(t *testing.T) { test(t, v, p) })
			}
		})
	}
}

// batches calls do with the sizes of the batches of all rounds, each with empty flow tables, and
// then reports.
func (r *race) batches(do func(size int)) {
	r.t.Helper()
	before := r.count()
	for r.base < r.rounds {
		r.emptyFlows()
		size := min(batchSize, r.rounds-r.base)
		do(size)
		r.base += size
	}
	r.report(before)
}

// wrong counts an error.
func (r *race) wrong(what, format string, args ...any) {
	if r.wrongs[what] == 0 {
		r.example[what] = fmt.Sprintf(format, args...)
	}
	r.wrongs[what]++
}

// report fails the test if there was an error, and logs how packets were counted since before.
func (r *race) report(before []uint64) {
	r.t.Helper()
	for _, what := range slices.Sorted(maps.Keys(r.wrongs)) {
		r.t.Errorf("%s: %d times in %d rounds; the first: %s", what, r.wrongs[what], r.rounds, r.example[what])
	}
	r.count()
	for i, now := range r.counted {
		if n := now - before[i]; n > 0 {
			r.t.Logf("%s: %d %s", bpf.HookName(bpf.Hook(i)/bpf.Hook(bpf.VerdictCount)), n,
				bpf.VerdictName(bpf.Verdict(i)%bpf.VerdictCount))
		}
	}
}

// inStep calls both functions for each round of a batch, each on a CPU of its own. They begin each
// round at the same time but for an offset, which differs from round to round.
func (r *race) inStep(size int, first, second func(round int) error) {
	r.t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	cpus := twoCPUs(r.t)
	var at [2]progress
	errs := make(chan error)
	go func() { errs <- r.keepStep(cpus[0], size, &at[0], &at[1], first, 1) }()
	go func() { errs <- r.keepStep(cpus[1], size, &at[1], &at[0], second, -1) }()
	if err := errors.Join(<-errs, <-errs); err != nil {
		r.t.Fatal(err)
	}
}

// progress is how many rounds a CPU has begun, on a cache line of its own.
type progress struct {
	_ [64]byte
	atomic.Int64
	_ [64]byte
}

// keepStep is one CPU's part of inStep. Its thread ends with it.
func (r *race) keepStep(cpu, size int, mine, other *progress, do func(int) error, sign int) error {
	defer mine.Store(math.MaxInt64) // the other must not wait
	if err := errors.Join(join(), pin(cpu)); err != nil {
		return err
	}
	for i := range size {
		mine.Add(1)
		other.await(int64(i + 1))
		mine.spin(sign * r.offset(i))
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

// offset is how much later than the second CPU the first one begins a round, in turns: from -sweep
// to sweep, half of the times within an eighth of that. The stride is coprime to the number of
// steps, so that each of them occurs.
func (r *race) offset(i int) int {
	const steps, stride = 1000, 4999
	x := (r.base+i)*stride%(2*steps+1) - steps
	return sweep * x * x * x / (steps * steps * steps)
}

func (p *progress) await(round int64) {
	for turn := 0; p.Load() < round; turn++ {
		if turn%patience == patience-1 {
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
}

// spin passes time. It reads memory, so that the loop is not empty.
func (p *progress) spin(turns int) {
	for range turns {
		p.Load()
	}
}

// pin keeps the goroutine's thread on a CPU, with priority over others there if permitted. The
// goroutine must be locked to its thread.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	return unix.SchedSetaffinity(0, &set)
}

// twoCPUs are the first two CPUs that the process may run on.
func twoCPUs(t *testing.T) [2]int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	if set.Count() < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("this needs two CPUs")
	}
	var cpus []int
	for cpu := 0; len(cpus) < 2; cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return [2]int(cpus)
}
