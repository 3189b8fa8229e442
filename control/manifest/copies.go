// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/waggle-lb/waggle/control/status"
)

// first decodes a file that this process has not read before, and adds what an earlier one knew.
func (t *tree) first(path string, data []byte, f *findings) contents {
	kept := t.kept.load(path)
	before := t.keptContents(path)
	now := before
	if !bytes.Equal(data, kept) {
		now = t.decode(path, data, before)
	}
	if kept != nil {
		f.kept = append(f.kept, change{path: path, documents: before.documents})
	}
	return now
}

// remember takes over the copies of files that are not there now. A copy does not show where its
// file was. While a part of the directory can't be read, the file may be there.
func (t *tree) remember(found listing, f *findings) {
	names, err := t.kept.names()
	f.keeping = errors.Join(f.keeping, err)
	there := t.copiesOf(found)
	for _, name := range names {
		if there[name] {
			continue
		}
		path := filepath.Join(string(t.kept), name)
		c := t.decode(path, t.kept.loadCopy(name), contents{})
		t.files[path] = &file{failed: true, orphan: name, contents: contents{documents: c.documents, broken: true}}
		f.kept = append(f.kept, change{path: path, documents: c.documents})
	}
}

// copiesOf returns the names of the copies of the files that were found.
func (t *tree) copiesOf(found listing) map[string]bool {
	names := map[string]bool{}
	for path := range found.files {
		names[t.kept.name(path)] = true
	}
	return names
}

// forget drops the files that are not there any more. What may be in a place that can't be read
// stays.
func (t *tree) forget(found listing, f *findings) {
	var there map[string]bool
	for path, known := range t.files {
		if _, ok := found.files[path]; ok || found.unreadable(path) {
			continue
		}
		if known.orphan != "" && len(found.failed) > 0 {
			if there == nil {
				there = t.copiesOf(found)
			}
			if !there[known.orphan] {
				continue
			}
		}
		delete(t.files, path)
		f.changes = append(f.changes, change{path: path})
	}
}

// keep saves the last good state of a file: the file, if nothing is wrong with it, or those of its
// objects that are in force.
func (t *tree) keep(path string, data []byte, now contents) error {
	if t.kept == "" || now.broken {
		return nil
	}
	if now.sound() {
		return t.kept.save(path, data)
	}
	before := map[objectKey]document{}
	for _, d := range t.keptContents(path).documents {
		before[d.key] = d
	}
	var good []document
	for _, d := range now.documents {
		if len(d.unsound) > 0 {
			d = before[d.key]
		}
		if d.object != nil {
			good = append(good, d)
		}
	}
	if len(good) == 0 {
		return nil
	}
	list, err := encode(good)
	if err != nil {
		return err
	}
	return t.kept.save(path, list)
}

// prune removes the copies of files that are known to be gone.
func (t *tree) prune() error {
	keep := map[string]bool{}
	for path, known := range t.files {
		if known.orphan != "" {
			keep[known.orphan] = true
		} else {
			keep[t.kept.name(path)] = true
		}
	}
	return t.kept.keepOnly(keep)
}

// copyProblems says why copies could not be kept.
func (t *tree) copyProblems(err error) []status.Problem {
	if err == nil {
		return nil
	}
	return []status.Problem{{File: string(t.kept),
		Message: fmt.Sprintf("the last good state of files can't be kept over a restart: %v", err)}}
}
