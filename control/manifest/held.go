// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/waggle-lb/waggle/control/status"
)

// heldFileName is a file of the cache directory: a List of what is held.
const heldFileName = "held.json"

// HeldFile is the file, in a source's cache directory, of the objects that the brake holds. It
// exists while the brake holds any.
func HeldFile(cacheDir string) string { return filepath.Join(cacheDir, heldFileName) }

// Release makes the source with this cache directory let go of what its brake holds, within a
// second if it runs. It returns no error if nothing is held.
func Release(cacheDir string) error {
	if err := os.Remove(HeldFile(cacheDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// held are the objects that the directory no longer defines, but the brake keeps in force.
type held struct {
	root string // of the manifests; stands for the file of what is held
	kept lastGood

	documents map[objectKey]document
	written   bool  // the file exists, so its removal is a release
	failed    error // to write it
}

func newHeld(root string, kept lastGood) *held {
	return &held{root: root, kept: kept, documents: map[objectKey]document{}}
}

func (h *held) has(key objectKey) bool {
	_, ok := h.documents[key]
	return ok
}

func (h *held) put(d *document) {
	h.documents[d.key] = document{key: d.key, file: h.root, object: d.object}
}

// drop lets go of objects, and of all if no Service is left.
func (h *held) drop(keys ...objectKey) {
	for _, key := range keys {
		delete(h.documents, key)
	}
	if len(h.services()) == 0 {
		clear(h.documents)
	}
}

// services lists the Services that are held, as namespace/name.
func (h *held) services() []string {
	var names []string
	for key := range h.documents {
		if key.kind == kindService {
			names = append(names, key.qualifiedName())
		}
	}
	slices.Sort(names)
	return names
}

// change is the file of held objects as a change for the index.
func (h *held) change() change {
	c := change{path: h.root}
	for _, key := range slices.SortedFunc(maps.Keys(h.documents), compareKeys) {
		c.documents = append(c.documents, h.documents[key])
	}
	return c
}

// restore reads what an earlier process held.
func (h *held) restore(decode func(path string, data []byte) contents) {
	data := h.kept.loadCopy(heldFileName)
	if data == nil {
		return
	}
	h.written = true
	for _, d := range decode(h.root, data).documents {
		if len(d.unsound) == 0 {
			h.put(&d)
		}
	}
}

// save makes the file hold what is held.
func (h *held) save() {
	if h.kept == "" {
		return
	}
	if len(h.documents) == 0 {
		h.written, h.failed = false, Release(string(h.kept))
		return
	}
	data, err := encode(h.change().documents)
	if err == nil {
		err = h.kept.saveCopy(heldFileName, data)
	}
	h.written, h.failed = err == nil, err
}

// released reports whether the file was removed.
func (h *held) released() bool {
	if !h.written {
		return false
	}
	_, err := os.Lstat(HeldFile(string(h.kept)))
	return errors.Is(err, fs.ErrNotExist)
}

// problems say what is held, and what ends that.
func (h *held) problems() []status.Problem {
	var found []status.Problem
	if services := h.services(); len(services) > 0 {
		found = append(found, status.Problem{File: h.root, Message: fmt.Sprintf(
			"%d Services are gone from the directory all at once and are held (--deletion-brake), %s first: bring their files back, or run `waggle release`",
			len(services), services[0])})
	}
	if h.failed != nil {
		found = append(found, status.Problem{File: HeldFile(string(h.kept)), Message: fmt.Sprintf(
			"what the deletion brake holds can't be kept over a restart: %v", unwrapPath(h.failed))})
	}
	return found
}
