// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"github.com/waggle-lb/waggle/control/atomicfile"
	"github.com/waggle-lb/waggle/control/status"
)

// watch follows the directories that were entered, and the file of allocations. Without a watch,
// the source still looks from time to time.
type watch struct {
	system *fsnotify.Watcher // nil if there is none
	events <-chan fsnotify.Event
	errors <-chan error

	allocations string
	entered     map[string]inode // directories that are watched
	seen        map[string]bool  // in this pass
	failed      []status.Problem
}

func newWatch(allocations string) *watch {
	w := &watch{allocations: allocations, entered: map[string]inode{}, seen: map[string]bool{}}
	system, err := fsnotify.NewWatcher()
	if err != nil {
		w.fail("", err)
		return w
	}
	w.system, w.events, w.errors = system, system.Events, system.Errors
	return w
}

func (w *watch) close() {
	if w.system != nil {
		_ = w.system.Close()
	}
}

func (w *watch) fail(path string, err error) {
	w.failed = append(w.failed, status.Problem{
		File: path, Message: fmt.Sprintf("can't be watched, changes are seen late: %v", unwrapPath(err)),
	})
}

// enter watches a directory. It does so at each look, since a watch may be gone: another directory
// may have replaced this one, as in a mounted ConfigMap, even with the same inode. Adding an
// existing watch changes nothing.
func (w *watch) enter(path string, info fs.FileInfo) {
	w.seen[path] = true
	if w.system == nil {
		return
	}
	id := inodeOf(info)
	if before, ok := w.entered[path]; ok && before != id {
		_ = w.system.Remove(path) // fails if the directory is gone, which has the same effect
	}
	delete(w.entered, path)
	if err := w.system.Add(path); err != nil {
		w.fail(path, err)
		return
	}
	w.entered[path] = id
}

// settle ends a pass, and forgets the directories that were not entered. It returns what could not
// be watched in this pass; the next pass tries each directory again.
func (w *watch) settle() []status.Problem {
	if dir := filepath.Dir(w.allocations); !w.seen[dir] {
		if info, err := os.Stat(dir); err == nil {
			w.enter(dir, info)
		}
	}
	for path := range w.entered {
		if !w.seen[path] {
			_ = w.system.Remove(path)
			delete(w.entered, path)
		}
	}
	failed := w.failed
	w.seen, w.failed = map[string]bool{}, nil
	if w.system == nil {
		w.failed = failed // there won't be another attempt
	}
	return failed
}

// concerns reports whether an event matters. Locks and temporary files of allocations don't: agents
// would wake each other for nothing.
func (w *watch) concerns(path string) bool {
	own := filepath.Clean(w.allocations)
	path = filepath.Clean(path)
	return path != own+lockSuffix && path != atomicfile.Temp(own)
}
