// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

// mappedBytes is how much memory of BPF maps this process has mapped.
func mappedBytes(t *testing.T) (sum uint64) {
	t.Helper()
	file, err := os.Open("/proc/self/maps")
	must(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasSuffix(lines.Text(), "anon_inode:bpf-map") {
			var from, to uint64
			_, err := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to)
			must(t, err)
			sum += to - from
		}
	}
	return sum
}

// TestMappedIsWhatIsUsed: only the part of a large array that is in use stays mapped, even after all of it
// has been read. Elements on either side of the boundary are read and written as programs see them.
func TestMappedIsWhatIsUsed(t *testing.T) {
	const elements, far = 1 << 18, 200_000
	p := mapstest.New(t, map[string]uint32{"backends": elements})
	before := mappedBytes(t)
	backends, err := maps.NewBackends(p)
	must(t, err)
	at := func(id uint32) maps.Backend {
		return maps.Backend{Addr: addr("10.0.0.1"), Port: uint16(id), Proto: unix.IPPROTO_TCP, Service: id, InCluster: true}
	}
	id, err := backends.Add(at(1), start)
	must(t, err)
	element := bpf.Backend{Service: 9}
	must(t, p.Map("backends").Put(uint32(far), element)) // not written by the agent
	all, err := backends.All()
	must(t, err)
	if len(all) != 2 || all[id] != at(1) || all[far].Service != 9 {
		t.Errorf("read %v", all)
	}
	if strays := straysOf(t, backends); len(strays) != 1 || strays[0] != far {
		t.Errorf("strays %v, want %d", strays, far)
	}
	if mapped := mappedBytes(t) - before; mapped == 0 || mapped > 1<<20 {
		t.Errorf("%d bytes are mapped, for one backend", mapped)
	}

	var around []uint32
	for id := uint32(2); id < 50_000; id++ {
		got, err := backends.Add(at(id), start)
		must(t, err)
		if got%1000 < 2 {
			around = append(around, got)
		}
	}
	for _, id := range append(around, 1) {
		same, err := backends.Holds(id, at(id))
		must(t, err)
		must(t, p.Map("backends").Lookup(id, &element))
		if !same || element.Service != id {
			t.Errorf("backend %d: a program reads %+v, the agent's own is there: %t", id, element, same)
		}
	}
	if err := backends.Clear(elements); err == nil {
		t.Error("an element beyond the array could be written")
	}
	if _, err := backends.Holds(elements, at(1)); err == nil {
		t.Error("an element beyond the array could be read")
	}
}

func straysOf(t *testing.T, b *maps.Backends) (all []uint32) {
	t.Helper()
	for next := uint32(1); next != 0; {
		some, following, err := b.Strays(next)
		must(t, err)
		all, next = append(all, some...), following
	}
	return all
}
