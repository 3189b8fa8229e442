// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/source"
)

// problems is what we do without, by kind of object.
type problems struct {
	log *logrus.Entry

	mu  sync.Mutex
	all map[string]source.Problem
}

func newProblems(log *logrus.Entry) *problems {
	return &problems{log: log, all: map[string]source.Problem{}}
}

// found notes a problem, or another message for one that is known.
func (p *problems) found(kind, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.all[kind]
	if known && before.Message == message {
		return
	}
	p.log.WithField("kind", kind).Warn(message)
	p.all[kind] = source.Problem{Object: kind, Message: message, Since: time.Now()}
}

func (p *problems) over(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, kind)
}

// list returns them in the order of kinds.
func (p *problems) list() []source.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []source.Problem{}
	for _, kind := range slices.Sorted(maps.Keys(p.all)) {
		all = append(all, p.all[kind])
	}
	return all
}
