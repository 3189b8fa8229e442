// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// sortKey is a value of --sort.
type sortKey[T any] struct {
	name    string
	compare func(a, b T) int
}

// sortFlag is the flag --sort.
type sortFlag[T any] struct {
	given string
	keys  []sortKey[T]
}

// add must be called after output.addFlag. With the default "" objects keep the order in which they are read.
func (s *sortFlag[T]) add(cmd *cobra.Command, byDefault, usage string) {
	cmd.Flags().StringVar(&s.given, "sort", byDefault, usage+": "+s.names())
	alsoCheck(cmd, func() error {
		if s.given != byDefault && s.order() == nil {
			return fmt.Errorf("--sort %s: unknown column; one of %s", s.given, s.names())
		}
		return nil
	})
}

func (s *sortFlag[T]) names() string {
	var names []string
	for _, k := range s.keys {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// order returns nil if objects keep the order in which they are read.
func (s *sortFlag[T]) order() func(a, b T) int {
	if i := slices.IndexFunc(s.keys, func(k sortKey[T]) bool { return k.name == s.given }); i >= 0 {
		return s.keys[i].compare
	}
	return nil
}

// selection keeps the first objects by an order, or the first that are added. It needs memory for
// twice the limit.
type selection[T any] struct {
	limit   int              // 0 for no limit
	order   func(a, b T) int // nil: as they are added
	more    bool             // some were left out
	objects []T
}

// add reports whether further objects may be among the first.
func (s *selection[T]) add(object T) bool {
	if s.order == nil && s.limit > 0 && len(s.objects) == s.limit {
		s.more = true
		return false
	}
	s.objects = append(s.objects, object)
	if s.limit > 0 && len(s.objects) == 2*s.limit {
		s.cut()
	}
	return true
}

func (s *selection[T]) cut() {
	if s.order != nil {
		slices.SortStableFunc(s.objects, s.order)
	}
	if s.limit > 0 && len(s.objects) > s.limit {
		s.objects, s.more = s.objects[:s.limit], true
	}
}

// all returns what was kept, in order.
func (s *selection[T]) all() []T {
	s.cut()
	return s.objects
}
