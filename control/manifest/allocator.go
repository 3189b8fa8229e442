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

// roster tells the allocator which Services there are.
type roster interface {
	// wanted is the manifest of a Service that is in force, nil if there is none.
	wanted(name string) *v1.Service
	// unknown tells whether there is surely no Service of that name. It isn't sure as long as
	// some file can't be read.
	unknown(name string) bool
	// allServices are the manifests of Services that are in force, in any order.
	allServices() []*v1.Service
	// pools are those in force, with the labels of namespaces.
	pools() (*pools.Set, map[string]labels.Set)
}

// allocator joins the table in memory, the file, and the rules.
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

// newAllocator begins with what an earlier process knew: the file may be out of reach, or its
// directory not what it was.
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

// outcome is what came of some requests.
type outcome struct {
	decided  []string // Services that were looked at, be it that another agent changed theirs
	refused  map[string]field.ErrorList
	problems []status.Problem // of the file

	plan      pools.Plan // of the addresses of load balancers
	addresses []status.Address
}

// allocate drops the entries of Services that are gone and decides on those that want something,
// all under the lock of the file, so that agents who share it decide one after the other and each
// knows what those before it decided.
func (a *allocator) allocate(ctx context.Context, gone, wanting []string, who roster) outcome {
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
	yielding, sound := a.follow(&out, writable, who)
	for _, name := range gone {
		a.drop(name)
	}
	a.dropStrays(who)
	a.decide(&out, append(yielding, wanting...), who)
	a.giveAddresses(&out, who)
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
			"was corrupt and has been moved to %s; remove that once you have looked at it", a.store.path+corruptSuffix)))
	}
	return out
}

func (a *allocator) decide(out *outcome, names []string, who roster) {
	var requests []*request
	seen := map[string]bool{}
	for _, name := range names {
		if service := who.wanted(name); service != nil && !seen[name] {
			requests = append(requests, &request{name: name, service: service})
			out.decided = append(out.decided, name)
		}
		seen[name] = true
	}
	rules := &allocation{table: a.table, ranges: a.ranges, stray: func(name string) bool {
		return name != "" && who.unknown(name)
	}}
	out.refused = rules.resolve(requests)
	if len(requests) > 0 {
		a.changed()
	}
}

// changed notes that what is written of the table is not what it holds any more.
func (a *allocator) changed() { a.saved, a.copied = false, false }

func (a *allocator) drop(name string) {
	a.table.drop(name)
	a.changed()
}

// follow takes over what the file says, and lists the Services for which that is something else
// than before. The file wins over memory: agents who disagree then agree with the one that
// wrote first. It tells too whether the file may be written over.
func (a *allocator) follow(out *outcome, writable bool, who roster) (yielding []string, sound bool) {
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
	return a.merge(entries, who), true
}

// merge builds the table anew. What runs here and isn't in the file stays if nobody else has it.
func (a *allocator) merge(entries map[string]entry, who roster) (yielding []string) {
	before := a.table
	a.table = newTable()
	a.changed()
	file := &table{entries: entries}
	for _, name := range file.names() {
		a.table.put(name, entries[name])
	}
	for _, name := range before.names() {
		if who.wanted(name) == nil {
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

func (a *allocator) dropStrays(who roster) {
	strays := map[string]time.Time{}
	for _, name := range a.table.names() {
		if !who.unknown(name) {
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
