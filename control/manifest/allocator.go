// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// strayAge is how long an entry of the file that belongs to no known Service is left alone.
// Another agent may have seen the manifest before we do.
const strayAge = 30 * time.Second

// roster is the allocator's view of the Services.
type roster interface {
	// wanted returns the manifest in force of a Service, nil if there is none.
	wanted(name string) *v1.Service
	// unknown reports whether there is certainly no Service of that name. This is not certain
	// while some file can't be read.
	unknown(name string) bool
	// allServices returns the manifests in force of all Services, in any order.
	allServices() []*v1.Service
	// pools returns the pools in force, with the labels of namespaces.
	pools() (*pools.Set, map[string]labels.Set)
}

// allocator keeps the table in memory and in the file in step, and applies the rules of allocation.
type allocator struct {
	store  *store
	ranges ranges
	table  *table
	saved  bool                 // the table, in the file
	copied bool                 // the table, to kept
	strays map[string]time.Time // since when
	now    func() time.Time
	kept   allocationCopy

	classes pools.Classes
}

// newAllocator begins with the copy of an earlier process: the file may be unreadable, or another
// directory may be mounted.
func newAllocator(path string, from ranges, readOnly bool, kept lastGood) *allocator {
	a := &allocator{
		store:  &store{path: path, readOnly: readOnly},
		ranges: from,
		table:  newTable(),
		strays: map[string]time.Time{},
		now:    time.Now,
		kept:   allocationCopy{dir: kept},
	}
	earlier := &table{entries: a.kept.load()}
	for _, name := range earlier.names() {
		a.table.put(name, earlier.entries[name])
	}
	return a
}

// outcome is the result of some requests.
type outcome struct {
	decided  []string // Services that were looked at, including those that another agent has changed
	refused  map[string]field.ErrorList
	problems []status.Problem // of the file

	plan      pools.Plan // of the addresses of load balancers
	addresses []status.Address
}

// allocate drops the entries of Services that are gone, and decides on those with requests. It
// holds the lock of the file meanwhile: agents that share the file decide one after the other, and
// each knows the earlier decisions.
func (a *allocator) allocate(ctx context.Context, gone, wanting []string, all roster) outcome {
	var out outcome
	writable := !a.store.readOnly
	if writable {
		unlock, err := a.store.lock(ctx)
		if err != nil {
			out.problems = append(out.problems, a.problem(fmt.Sprintf("can't be locked, allocations are not kept: %v", err)))
			writable = false
		} else {
			defer unlock()
		}
	}
	yielding, sound := a.follow(&out, writable, all)
	for _, name := range gone {
		a.drop(name)
	}
	a.dropStrays(all)
	a.decide(&out, append(yielding, wanting...), all)
	a.giveAddresses(&out, all)
	if writable && sound && !a.saved {
		if err := a.store.write(a.table.entries); err != nil {
			out.problems = append(out.problems, a.problem(fmt.Sprintf("can't be written, allocations are not kept: %v", err)))
		} else {
			a.saved = true
		}
	}
	if !a.copied {
		if err := a.kept.save(a.table.entries); err != nil {
			out.problems = append(out.problems, status.Problem{File: string(a.kept.dir),
				Message: fmt.Sprintf("a copy of the allocations can't be kept over a restart: %v", err)})
		} else {
			a.copied = true
		}
	}
	if a.store.wasSetAside() {
		out.problems = append(out.problems, a.problem(fmt.Sprintf(
			"was corrupt: the agent has moved it to %s; look at it, then remove it", a.store.path+corruptSuffix)))
	}
	return out
}

func (a *allocator) decide(out *outcome, names []string, all roster) {
	var requests []*request
	seen := map[string]bool{}
	for _, name := range names {
		if service := all.wanted(name); service != nil && !seen[name] {
			requests = append(requests, &request{name: name, service: service})
			out.decided = append(out.decided, name)
		}
		seen[name] = true
	}
	rules := &allocation{table: a.table, ranges: a.ranges, stray: func(name string) bool {
		return name != "" && all.unknown(name)
	}}
	out.refused = rules.resolve(requests)
	if len(requests) > 0 {
		a.changed()
	}
}

// changed notes that the table differs from its files.
func (a *allocator) changed() { a.saved, a.copied = false, false }

func (a *allocator) drop(name string) {
	a.table.drop(name)
	a.changed()
}

// follow takes over what the file says, and lists the Services for which this differs from before.
// The file wins over memory: agents that disagree then agree with the one that wrote first. sound
// reports whether the file may be overwritten.
func (a *allocator) follow(out *outcome, writable bool, all roster) (yielding []string, sound bool) {
	entries, changed, err := a.store.read()
	switch {
	case errors.Is(err, errCorrupt) && writable:
		if err := a.store.setAside(); err != nil {
			out.problems = append(out.problems, a.problem(fmt.Sprintf("is corrupt and can't be moved aside: %v", err)))
			return nil, false
		}
		a.saved = false
		return nil, true
	case err != nil:
		out.problems = append(out.problems, a.problem(err.Error()))
		return nil, false
	case !changed:
		return nil, true
	}
	return a.merge(entries, all), true
}

// merge rebuilds the table. An entry of a known Service that is not in the file stays if no other Service has
// its addresses and ports.
func (a *allocator) merge(entries map[string]entry, all roster) (yielding []string) {
	before := a.table
	a.table = newTable()
	a.changed()
	file := &table{entries: entries}
	for _, name := range file.names() {
		a.table.put(name, entries[name])
	}
	for _, name := range before.names() {
		if all.wanted(name) == nil {
			continue
		}
		if _, ok := entries[name]; !ok {
			a.table.put(name, before.entries[name])
		}
		if !a.table.entries[name].equal(before.entries[name]) {
			yielding = append(yielding, name)
		}
	}
	return yielding
}

func (a *allocator) dropStrays(all roster) {
	strays := map[string]time.Time{}
	for _, name := range a.table.names() {
		if !all.unknown(name) {
			continue
		}
		since, ok := a.strays[name]
		if !ok {
			since = a.now()
		}
		if strays[name] = since; a.now().Sub(since) >= strayAge {
			a.drop(name)
		}
	}
	a.strays = strays
}

func (a *allocator) problem(message string) status.Problem {
	return status.Problem{File: a.store.path, Message: "allocation file " + message}
}
