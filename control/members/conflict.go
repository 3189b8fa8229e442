// SPDX-License-Identifier: Apache-2.0

package members

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// Conflict is a name that two agents have. The members know only one of them by it.
type Conflict struct {
	Name         string
	Known, Other string // addresses
	Since        time.Time
	seen         time.Time
}

// String is for people.
func (c Conflict) String() string {
	return fmt.Sprintf("two agents have the name %s (--node-name): %s and %s", c.Name, c.Known, c.Other)
}

// conflictFor is for how long a conflict is shown that has not been seen again. Members compare what they know each 30 s.
const conflictFor = time.Minute

// NotifyConflict is part of memberlist.ConflictDelegate.
func (d *delegate) NotifyConflict(known, other *memberlist.Node) {
	address := func(n *memberlist.Node) string { return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port))) }
	now := time.Now()
	c := Conflict{known.Name, address(known), address(other), now, now}
	d.mu.Lock()
	defer d.mu.Unlock()
	if before, is := d.conflicts[c.Name]; is && before.Known == c.Known && before.Other == c.Other {
		c.Since = before.Since
	}
	d.conflicts[c.Name] = c
}

// Conflicts are names that two agents have, in order.
func (m *Members) Conflicts() (all []Conflict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.conflicts, func(_ string, c Conflict) bool { return time.Since(c.seen) > conflictFor })
	for _, name := range slices.Sorted(maps.Keys(m.conflicts)) {
		all = append(all, m.conflicts[name])
	}
	return all
}

// namesake returns an error if another agent with the name of this one has been found since then: no member would ask
// both of them before it announces an address.
func (m *Members) namesake(since time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, is := m.conflicts[m.opts.Name]; is && !c.seen.Before(since) {
		return fmt.Errorf("another agent, at %s, has the name of this node, %s (--node-name)", c.Other, m.opts.Name)
	}
	return nil
}
