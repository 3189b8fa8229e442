// SPDX-License-Identifier: Apache-2.0

package manifest

import "bytes"

// allocationCopy is the agent's own copy of the allocations.
type allocationCopy struct {
	dir   lastGood
	known []byte // as last written
}

const allocationCopyName = "allocations.json"

// load returns the allocations of an earlier process, nil if they are not known.
func (c *allocationCopy) load() map[string]entry {
	data := c.dir.loadCopy(allocationCopyName)
	if len(data) == 0 {
		return nil
	}
	entries, err := decodeAllocations(data)
	if err != nil {
		return nil // it is written anew
	}
	return entries
}

func (c *allocationCopy) save(entries map[string]entry) error {
	if c.dir == "" {
		return nil
	}
	data, err := encodeAllocations(entries)
	if err != nil || bytes.Equal(data, c.known) {
		return err
	}
	if err := c.dir.saveCopy(allocationCopyName, data); err != nil {
		return err
	}
	c.known = data
	return nil
}
