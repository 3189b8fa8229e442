// SPDX-License-Identifier: Apache-2.0

// Package drift counts the elements of the datapath's maps that other programs have changed and the agent has
// repaired.
package drift

import (
	"maps"
	"sync"

	"github.com/sirupsen/logrus"
)

// Tally counts repaired elements by map. It is safe for concurrent use.
type Tally struct {
	mu    sync.Mutex
	total map[string]int
}

// NewTally makes a Tally of these maps, by the kernel's names of maps. Add adds further maps.
func NewTally(names ...string) *Tally {
	t := &Tally{total: map[string]int{}}
	for _, name := range names {
		t.total[name] = 0
	}
	return t
}

// Add counts and logs what one pass has repaired.
func (t *Tally) Add(found map[string]int, log *logrus.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for table, n := range found {
		t.total[table] += n
		log.WithFields(logrus.Fields{"map": table, "elements": n}).Warn("another program changed a map; repaired")
	}
}

// Totals returns a copy of the counts, with a 0 for each map without repairs.
func (t *Tally) Totals() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.total)
}
