// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// watchFlags are the flags of a list that can be watched, as in kubectl.
type watchFlags struct {
	watch  bool
	events bool
}

// add must be called after output.addFlag.
func (f *watchFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "after the list, print new, changed and deleted objects, until interrupted")
	cmd.Flags().BoolVar(&f.events, "output-watch-events", false, "with --watch: print also whether an object was ADDED, MODIFIED or DELETED")
	alsoCheck(cmd, func() error {
		if f.events && !f.watch {
			return fmt.Errorf("--output-watch-events: only with --watch")
		}
		return nil
	})
}

// alsoCheck adds a check of flags, so that a bad value is named before anything is read.
func alsoCheck(cmd *cobra.Command, check func() error) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := before(cmd, args); err != nil {
			return err
		}
		return check()
	}
}

// The types of Kubernetes' watch events.
const (
	added    = "ADDED"
	modified = "MODIFIED"
	deleted  = "DELETED"
)

type event[T any] struct {
	Type   string `json:"type"`
	Object T      `json:"object"`
}

// watch looks at objects repeatedly, and prints those that are new, changed or gone. It holds at most
// limit objects, and twice as many during a look.
type watch[K comparable, T any] struct {
	out    *output
	events bool
	limit  int // of the objects that it follows; 0 for no limit

	read  func(func(T) bool) error // calls the function with each object until it returns false
	id    func(T) K
	same  func(a, b T) bool // whether there is nothing to print
	order func(a, b T) int  // nil: as they are read
	table func(objects []T, wide bool) table

	known   map[K]T
	columns columns
	headed  bool // the header is printed
}

// A look at large tables takes time: watch uses at most a tenth of a CPU.
const (
	watchEvery = time.Second
	watchShare = 10
)

// cpuTime returns the CPU time of the process. By wall-clock time, a watch would wait for long on a busy node.
func cpuTime() time.Duration {
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &used) // it can't fail
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// run watches until SIGINT or SIGTERM, which is no error, or until something can't be read.
func (w *watch[K, T]) run(cmd *cobra.Command) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	w.known = map[K]T{}
	for first := true; ; first = false {
		before := cpuTime()
		left, err := w.look(ctx, cmd.OutOrStdout())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if first && left {
			fmt.Fprintf(cmd.ErrOrStderr(), "waggle: there are more than %d: the command follows others only when some of these are gone (--limit)\n", w.limit)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(watchEvery, watchShare*(cpuTime()-before))):
		}
	}
}

// look reads all objects once and prints changes. left reports whether there are more than it may follow.
func (w *watch[K, T]) look(ctx context.Context, out io.Writer) (left bool, err error) {
	var changes []event[T]
	there := make(map[K]bool, len(w.known))
	fresh := selection[T]{limit: w.limit, order: w.order}
	err = w.read(func(object T) bool {
		id := w.id(object)
		before, known := w.known[id]
		switch {
		case !known:
			fresh.add(object)
		case !w.same(before, object):
			changes = append(changes, event[T]{modified, object})
			w.known[id] = object
		}
		if known {
			there[id] = true
		}
		return ctx.Err() == nil
	})
	if err != nil || ctx.Err() != nil {
		return false, err
	}
	for id, object := range w.known {
		if !there[id] {
			changes = append(changes, event[T]{deleted, object})
			delete(w.known, id)
		}
	}
	for _, object := range fresh.all() {
		if w.limit > 0 && len(w.known) >= w.limit {
			left = true
			break
		}
		changes = append(changes, event[T]{added, object})
		w.known[w.id(object)] = object
	}
	if w.order != nil {
		slices.SortStableFunc(changes, func(a, b event[T]) int { return w.order(a.Object, b.Object) })
	}
	return left || fresh.more, w.print(out, changes)
}

// print writes a document for each change, or a row.
func (w *watch[K, T]) print(out io.Writer, changes []event[T]) error {
	if w.out.tabular() {
		return w.printRows(out, changes)
	}
	for _, change := range changes {
		var document any = change.Object
		if w.events {
			document = change
		}
		if err := w.out.printNext(out, document); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch[K, T]) printRows(out io.Writer, changes []event[T]) error {
	if len(changes) == 0 {
		return nil
	}
	objects := make([]T, len(changes))
	for i, change := range changes {
		objects[i] = change.Object
	}
	t := w.table(objects, w.out.wide())
	if w.events {
		t.header = append([]string{"EVENT"}, t.header...)
		for i, row := range t.rows {
			t.rows[i] = append([]string{changes[i].Type}, row...)
		}
	}
	rows := t.rows
	if !w.headed {
		rows = append([][]string{t.header}, rows...)
		w.headed = true
	}
	return w.columns.write(out, rows)
}
