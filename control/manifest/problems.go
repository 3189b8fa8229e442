// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/waggle-lb/waggle/control/status"
)

// problems are the present problems. Each owner replaces its whole share, so a problem that is
// solved disappears by itself.
type problems struct {
	log *logrus.Entry
	now func() time.Time

	mu    sync.Mutex
	owned map[string][]status.Problem
}

func newProblems(log *logrus.Entry) *problems {
	return &problems{log: log, now: time.Now, owned: map[string][]status.Problem{}}
}

// set replaces the share of an owner. A problem that was there before keeps its date.
func (p *problems) set(owner string, found []status.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.owned[owner]
	kept := make([]status.Problem, 0, len(found))
	for _, f := range found {
		if i := slices.IndexFunc(before, func(b status.Problem) bool { return sameProblem(b, f) }); i >= 0 {
			f.Since = before[i].Since
		} else {
			f.Since = p.now()
			p.logger(f).Warn("manifest problem: " + f.Message)
		}
		kept = append(kept, f)
	}
	for _, b := range before {
		if !slices.ContainsFunc(kept, func(k status.Problem) bool { return sameProblem(k, b) }) {
			p.logger(b).Info("manifest problem is over: " + b.Message)
		}
	}
	if len(kept) == 0 {
		delete(p.owned, owner)
		return
	}
	p.owned[owner] = kept
}

func (p *problems) logger(f status.Problem) *logrus.Entry {
	return p.log.WithFields(logrus.Fields{
		"file": f.File, "document": f.Document, "object": f.Object, "field": f.Field,
	})
}

// list returns all of them in the order of files, documents, objects and fields. What several
// owners report in the same words, such as two Services that select one bad Pod, comes once.
func (p *problems) list() []status.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []status.Problem{}
	for _, share := range p.owned {
		all = append(all, share...)
	}
	slices.SortFunc(all, compareProblems)
	return slices.CompactFunc(all, sameProblem)
}

func sameProblem(a, b status.Problem) bool {
	a.Since, b.Since = time.Time{}, time.Time{}
	return a == b
}

func compareProblems(a, b status.Problem) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.Document, b.Document),
		cmp.Compare(a.Object, b.Object),
		cmp.Compare(a.Field, b.Field),
		cmp.Compare(a.Message, b.Message),
		a.Since.Compare(b.Since),
	)
}

// fault is the problem of a document with one of its fields.
func (d *document) fault(field, message string) status.Problem {
	return status.Problem{
		File: d.file, Document: d.number, Object: d.key.String(), Field: field, Message: message,
	}
}

// faults are the problems of a document in the words of the API server.
func (d *document) faults(errs field.ErrorList) []status.Problem {
	found := make([]status.Problem, 0, len(errs))
	for _, e := range errs {
		found = append(found, d.fault(e.Field, e.ErrorBody()))
	}
	return found
}
