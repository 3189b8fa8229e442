// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
)

// findings are what the agent has found on its node. A finding stays until it is no longer true.
type findings struct {
	level logrus.Level // that a new one is logged with

	mu sync.Mutex
	by map[string][]string // messages, by what they are about
}

// replace replaces the findings about one thing. Without messages there are none. It reports whether that changed
// anything.
func (f *findings) replace(log *logrus.Entry, about string, messages []string) (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news = !slices.Equal(f.by[about], messages)
	for _, message := range messages {
		if !slices.Contains(f.by[about], message) {
			log.Log(f.level, message)
		}
	}
	if f.by == nil {
		f.by = map[string][]string{}
	}
	if f.by[about] = messages; len(messages) == 0 {
		delete(f.by, about)
	}
	return news
}

// all are the messages, sorted.
func (f *findings) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, messages := range f.by {
		out = append(out, messages...)
	}
	slices.Sort(out)
	return out
}

// counts are how many there are, by what they are about.
func (f *findings) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for about, messages := range f.by {
		out[about] = len(messages)
	}
	return out
}
