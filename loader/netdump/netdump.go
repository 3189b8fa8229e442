// SPDX-License-Identifier: Apache-2.0

// Package netdump reads whole tables of the kernel by netlink.
package netdump

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	tries      = 10
	firstPause = time.Millisecond // doubles each time
)

// Whole returns what list does. If a table changes while the kernel lists it, the list may have gaps,
// and list returns netlink.ErrDumpInterrupted. Whole then lists the table again, ten times within a
// second. If the table changes even faster, Whole returns that error and no list: the caller would
// take what is missing from an incomplete list for gone.
func Whole[T any](list func() (T, error)) (T, error) {
	var none T
	for try := range tries {
		all, err := list()
		if err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return none, err
		}
		if try < tries-1 {
			time.Sleep(firstPause << try)
		}
	}
	return none, fmt.Errorf("the table changes faster than it can be read: %w", netlink.ErrDumpInterrupted)
}
