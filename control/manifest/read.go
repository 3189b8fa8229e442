// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/control/status"
)

// maxFileSize keeps a file that is no manifest from using up the memory of the node.
const maxFileSize = 64 << 20

// tree is what the files of a directory hold, as far as known.
type tree struct {
	root   string
	except string // the file of allocations
	check  validator
	kept   lastGood
	files  map[string]*file
	begun  bool // files are known, at least from an earlier process
	unread bool // something could not be read at the last look
}

func newTree(root, except string, check validator, kept lastGood) *tree {
	return &tree{root: root, except: except, check: check, kept: kept, files: map[string]*file{}}
}

type file struct {
	stamp  stamp
	sum    [sha256.Size]byte
	failed bool   // to be read
	orphan string // the name of the copy, if only the copy is known
	contents
}

// stamp shows cheaply that a file has changed. An equal stamp does not prove the opposite, so the
// source reads all files now and then.
type stamp struct {
	inode    inode
	size     int64
	modified time.Time
}

func stampOf(info fs.FileInfo) stamp {
	return stamp{inode: inodeOf(info), size: info.Size(), modified: info.ModTime()}
}

// look says how to look at the directory.
type look struct {
	// suspects are files which were written to, whatever their stamps say.
	suspects map[string]bool
	// all: read every file.
	all bool
}

// change is a file that holds other documents than before.
type change struct {
	path      string
	documents []document // nil if the file is gone
}

// findings are the results of a look at the directory.
type findings struct {
	kept     []change // copies of an earlier process, for files that are read for the first time or are not there
	changes  []change
	problems []status.Problem
	keeping  error // why a file's last good state could not be kept
	absent   bool  // the directory can't be read, and kept has all that is known
}

// scan updates the tree. If the directory can't be read, it fails and changes nothing; at the first
// scan it uses the copies of an earlier process.
func (t *tree) scan(l look, enter func(string, fs.FileInfo)) (findings, error) {
	var f findings
	found, err := listDir(t.root, enter)
	if err != nil {
		if t.begun || t.kept.empty() {
			return f, err
		}
		found = listing{failed: []string{t.root}, problems: []status.Problem{absentDir(t.root, err)}}
		f.absent = true
	}
	delete(found.files, t.except)
	for _, path := range slices.Sorted(maps.Keys(found.files)) {
		t.refresh(path, found.files[path], l.all || l.suspects[path], &f)
	}
	if !t.begun {
		t.remember(found, &f)
		t.begun = true
	}
	t.forget(found, &f)
	t.unread = len(found.failed) > 0
	f.problems = found.problems
	for _, path := range slices.Sorted(maps.Keys(t.files)) {
		f.problems = append(f.problems, t.files[path].problems...)
	}
	return f, nil
}

func absentDir(root string, err error) status.Problem {
	return status.Problem{File: root,
		Message: fmt.Sprintf("the directory can't be read; everything stays in force: %v", unwrapPath(err))}
}

// refresh reads a file if it may have changed, and decodes it if it has.
func (t *tree) refresh(path string, info fs.FileInfo, suspect bool, f *findings) {
	known := t.files[path]
	if known != nil && !known.failed && !suspect && known.stamp == stampOf(info) {
		return
	}
	data, err := readFile(path)
	if err != nil {
		var before contents
		if known != nil {
			before = known.contents
		} else {
			before = t.keptContents(path)
			f.kept = append(f.kept, change{path: path, documents: before.documents})
		}
		now := brokenFile(path, 0, fmt.Sprintf("can't be read; what it held stays in force: %v", unwrapPath(err))).after(before)
		t.files[path] = &file{failed: true, contents: now}
		return
	}
	sum := sha256.Sum256(data)
	if known != nil && !known.failed && known.sum == sum {
		known.stamp = stampOf(info)
		return
	}
	var now contents
	if known != nil {
		now = t.decode(path, data, known.contents)
	} else {
		now = t.first(path, data, f)
	}
	f.keeping = errors.Join(f.keeping, t.keep(path, data, now))
	t.files[path] = &file{stamp: stampOf(info), sum: sum, contents: now}
	f.changes = append(f.changes, change{path: path, documents: now.documents})
}

// keptContents is what an earlier process knew of a file when nothing was wrong with it.
func (t *tree) keptContents(path string) contents {
	data := t.kept.load(path)
	if data == nil {
		return contents{}
	}
	return t.decode(path, data, contents{})
}

// decode keeps the contents of a file that has become empty: an editor may be writing it, or the
// disk may be full. To remove its objects, remove the file.
func (t *tree) decode(path string, data []byte, before contents) contents {
	if len(data) == 0 && len(before.documents) > 0 {
		return brokenFile(path, 0, "is empty; the objects that it held stay in force; to remove them, remove the file").after(before)
	}
	now := decodeFile(path, data)
	for i := range now.documents {
		t.check.check(&now.documents[i])
	}
	return now.after(before)
}

// unsure reports whether there may be unknown objects.
func (t *tree) unsure() bool {
	if t.unread {
		return true
	}
	for _, f := range t.files {
		if f.broken || f.vague {
			return true
		}
	}
	return false
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = errors.New("larger than 64 MiB")
	}
	return data, err
}
