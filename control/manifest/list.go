// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/waggle-lb/waggle/control/status"
)

// listing is what a directory and its sub-directories hold, by path.
type listing struct {
	files    map[string]fs.FileInfo
	failed   []string // directories and files that can't be read, whose contents are unknown
	problems []status.Problem
}

// inode identifies a directory, however many names lead to it.
type inode struct{ device, number uint64 }

func inodeOf(info fs.FileInfo) inode {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return inode{device: s.Dev, number: s.Ino}
	}
	return inode{}
}

// lister walks a directory. Links are followed, since a mounted ConfigMap is made of them.
type lister struct {
	// enter is called before a directory is listed, so that a watch on it misses nothing.
	enter   func(dir string, info fs.FileInfo)
	visited map[inode]bool
	listing
}

// listDir lists a directory. It fails if nothing of it can be read.
func listDir(root string, enter func(string, fs.FileInfo)) (listing, error) {
	l := lister{enter: enter, visited: map[inode]bool{}, listing: listing{files: map[string]fs.FileInfo{}}}
	info, err := os.Stat(root)
	if err != nil {
		return listing{}, err
	}
	if !info.IsDir() {
		return listing{}, &fs.PathError{Op: "readdir", Path: root, Err: syscall.ENOTDIR}
	}
	if err := l.dir(root, info); err != nil {
		return listing{}, err
	}
	return l.listing, nil
}

func (l *lister) dir(path string, info fs.FileInfo) error {
	if id := inodeOf(info); l.visited[id] {
		return nil
	} else {
		l.visited[id] = true
	}
	l.enter(path, info)
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			l.entry(filepath.Join(path, e.Name()), e.Type())
		}
	}
	return nil
}

// entry looks at one name. An entry that has vanished since the directory was read is gone. A link
// that leads nowhere is a fault: its file or directory may have been read before.
func (l *lister) entry(path string, kind fs.FileMode) {
	if kind&fs.ModeSymlink == 0 && !kind.IsDir() && !isManifest(path) {
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && kind&fs.ModeSymlink == 0:
	case err != nil:
		l.fail(path, err)
	case info.IsDir():
		if err := l.dir(path, info); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.fail(path, err)
		}
	case info.Mode().IsRegular() && isManifest(path):
		l.files[path] = info
	}
}

func (l *lister) fail(path string, err error) {
	l.failed = append(l.failed, path)
	l.problems = append(l.problems, status.Problem{
		File: path, Message: fmt.Sprintf("can't be read; what it held stays in force: %v", unwrapPath(err)),
	})
}

// unreadable reports whether a path, or a directory above it, can't be read.
func (l *listing) unreadable(path string) bool {
	for _, f := range l.failed {
		if path == f || strings.HasPrefix(path, f+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

func isManifest(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// unwrapPath leaves out the path, which the problem names already.
func unwrapPath(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
