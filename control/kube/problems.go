// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/status"
)

// problems are the kinds of object that the source lacks, with the reasons.
type problems struct {
	log *logrus.Entry

	mu  sync.Mutex
	all map[string]status.Problem
}

func newProblems(log *logrus.Entry) *problems {
	return &problems{log: log, all: map[string]status.Problem{}}
}

// found notes a problem, or a new message for a known one.
func (p *problems) found(kind, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.all[kind]
	if known && before.Message == message {
		return
	}
	p.log.WithField("kind", kind).Warn(message)
	p.all[kind] = status.Problem{Object: kind, Message: message, Since: time.Now()}
}

func (p *problems) over(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, kind)
}

// list returns the problems in the order of kinds.
func (p *problems) list() []status.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []status.Problem{}
	for _, kind := range slices.Sorted(maps.Keys(p.all)) {
		all = append(all, p.all[kind])
	}
	return all
}
