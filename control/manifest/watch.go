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

// watch follows the directories that were entered, and the file of allocations. Where the system
// gives no watch, the source still looks from time to time.
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

// enter watches a directory. It does so each time, since nothing tells for sure whether a watch
// still stands: a directory may be replaced by another, as links of a mounted ConfigMap are, and
// that may even have the same inode. To add a watch that stands changes nothing.
func (w *watch) enter(path string, info fs.FileInfo) {
	w.seen[path] = true
	if w.system == nil {
		return
	}
	id := inodeOf(info)
	if before, ok := w.entered[path]; ok && before != id {
		_ = w.system.Remove(path) // fails if the directory is gone, which is just as good
	}
	delete(w.entered, path)
	if err := w.system.Add(path); err != nil {
		w.fail(path, err)
		return
	}
	w.entered[path] = id
}

// settle ends a pass: directories that were not entered are forgotten. It returns what could not
// be watched in this pass; each directory is tried again in the next.
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

// concerns tells whether an event is of interest. Locks and temporary files of allocations are
// not, or agents would wake each other for nothing.
func (w *watch) concerns(path string) bool {
	own := filepath.Clean(w.allocations)
	path = filepath.Clean(path)
	return path != own+lockSuffix && path != atomicfile.Temp(own)
}
