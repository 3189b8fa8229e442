// SPDX-License-Identifier: Apache-2.0

// Package netdump reads tables of the kernel by netlink, whole.
package netdump

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	tries      = 10
	firstPause = time.Millisecond // which doubles each time
)

// Whole returns what list does. A table that changes while the kernel lists it may come with gaps, and
// netlink.ErrDumpInterrupted beside: then it is listed again, ten times within a second. The error of
// a table that changes even faster is that one, and there is no list: what is missing from one with
// gaps would be taken for gone.
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
