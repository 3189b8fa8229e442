// SPDX-License-Identifier: Apache-2.0

// Package drift counts what others have changed in the datapath's maps, and was repaired.
package drift

import (
	"maps"
	"sync"

	"github.com/sirupsen/logrus"
)

// Tally counts elements by map, since it was made. It is safe for concurrent use.
type Tally struct {
	mu    sync.Mutex
	total map[string]int
}

// NewTally makes a Tally of these maps, by the names that they have in the kernel. Others join them
// when something of theirs is added.
func NewTally(names ...string) *Tally {
	t := &Tally{total: map[string]int{}}
	for _, name := range names {
		t.total[name] = 0
	}
	return t
}

// Add counts what one pass has repaired, and logs it.
func (t *Tally) Add(found map[string]int, log *logrus.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for table, n := range found {
		t.total[table] += n
		log.WithFields(logrus.Fields{"map": table, "elements": n}).Warn("somebody else changed a map; repaired")
	}
}

// Totals returns a copy of the counts, with a 0 for each map that nothing was repaired in.
func (t *Tally) Totals() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.total)
}
