// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// fuzzedMaps are the maps that an agent reads when it starts.
var fuzzedMaps = []string{
	"services4", "services6", "slots", "backends", "service_names",
	"source_ranges4", "source_ranges6", "cluster_addrs", "cluster_ranges",
}

// FuzzRestore: an agent starts with any content of the maps, and brings them to what the source
// wants. Each change of the maps takes bytes of the input: which map, what to do, and to which
// element.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{})
	for table := range byte(len(fuzzedMaps)) {
		f.Add(slices.Concat([]byte{table, 0, 0}, slices.Repeat([]byte{0xff}, 80)))       // a stray element
		f.Add(slices.Concat([]byte{table, 1, 0}, slices.Repeat([]byte{table, 0, 1}, 9))) // in place of one of ours
		f.Add(slices.Concat([]byte{table, 2, 0, 0, 0xff}))                               // a byte of ours changed
		f.Add([]byte{table, 3, 0})                                                       // one of ours deleted
	}
	f.Add([]byte{0, 2, 0, 8, 3, 0, 2, 1, 8, 3, 3, 2, 2, 0, 0xff})
	f.Fuzz(func(t *testing.T, input []byte) {
		fix := newFixture(t, map[string]uint32{"slots": 64, "backends": 64})
		want := []plan.Service{
			web(to("10.1.0.1", "10.1.0.2*"), at(maps.NodePort, "0.0.0.0"), at(maps.LoadBalancer, "192.0.2.1"), guarded("10.0.0.0/8")),
			named("six", "fd00::1", to("fd00:1::1", "fd00:1::2", "fd00:1::3")),
			named("none", "10.96.0.3"),
		}
		fix.apply(want...)
		corrupt(t, fix.maps, input)
		fix.restart()
		fix.heal(want)
		fix.expectWanted(want)
		fix.expectNoLeak()
	})
}

// heal does what the agent does after its start: a full sync, a retry of what failed, and later the
// periodic repair.
func (f *fixture) heal(want []plan.Service) {
	f.t.Helper()
	wanted := map[maps.Name]bool{}
	for _, svc := range want {
		wanted[svc.Name] = true
	}
	gone := slices.DeleteFunc(f.r.Services(), func(name maps.Name) bool { return wanted[name] })
	f.r.Leave(gone)
	for _, svc := range want {
		_ = f.r.Apply(svc) // there may be no room before the others are gone
	}
	for _, name := range gone {
		f.must(f.r.Delete(name))
	}
	f.rest()
	f.apply(want...)
	_, err := f.r.Repair(func() {})
	f.must(err)
	f.rest()
}

// expectWanted checks that the maps mean what is wanted, and nothing else.
func (f *fixture) expectWanted(want []plan.Service) {
	f.t.Helper()
	var meant []string
	for _, svc := range want {
		for frontend, what := range wanted(svc) {
			meant = append(meant, frontend.String()+" "+what)
		}
	}
	f.expectMaps(meant...)
}

// corrupt changes the maps according to the input.
func corrupt(t *testing.T, p maps.Provider, input []byte) {
	t.Helper()
	next := func() (b byte) {
		if len(input) > 0 {
			b, input = input[0], input[1:]
		}
		return b
	}
	for ops := 0; len(input) > 0 && ops < 100; ops++ {
		m := p.Map(fuzzedMaps[int(next())%len(fuzzedMaps)])
		what, which := next(), next()
		key := keyAt(m, int(which))
		value := make([]byte, m.ValueSize())
		switch what % 4 {
		case 0, 1:
			if what%4 == 0 || key == nil {
				key = make([]byte, m.KeySize())
				for i := range key {
					key[i] = next()
				}
			}
			for i := range value {
				value[i] = next()
			}
			_ = m.Put(key, value) // the kernel may refuse
		case 2:
			if key != nil && m.Lookup(key, &value) == nil {
				value[int(next())%len(value)] ^= next()
				_ = m.Put(key, value)
			}
		case 3:
			if key != nil {
				_ = m.Delete(key) // elements of arrays can't be deleted
			}
		}
	}
}

// keyAt returns the n-th key of a map, modulo their number; nil if it has none.
func keyAt(m *ebpf.Map, n int) []byte {
	var keys [][]byte
	var key, value []byte
	for it := m.Iterate(); it.Next(&key, &value) && len(keys) <= n; {
		keys = append(keys, slices.Clone(key))
	}
	if len(keys) == 0 {
		return nil
	}
	return keys[n%len(keys)]
}
