// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// lastGood keeps, for each file, what it held when nothing was wrong with it, so that the last good
// state of an object outlives the process too: an agent that starts while a file is broken must not
// delete its objects. An empty string keeps nothing.
type lastGood string

// copyName matches the names of copies. Other files of the directory are not ours to remove.
var copyName = regexp.MustCompile(`^[0-9a-f]{64}(\.json)?$`)

// name is that of a file's copy. It has the suffix that decides how the file is read.
func (dir lastGood) name(path string) string {
	sum := sha256.Sum256([]byte(path))
	name := hex.EncodeToString(sum[:])
	if filepath.Ext(path) == ".json" {
		name += ".json"
	}
	return name
}

// load returns what a file held, or nil.
func (dir lastGood) load(path string) []byte { return dir.loadCopy(dir.name(path)) }

func (dir lastGood) loadCopy(name string) []byte {
	if dir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(string(dir), name))
	if err != nil {
		return nil
	}
	return data
}

// save replaces what is kept of a file in one step.
func (dir lastGood) save(path string, data []byte) error {
	if dir == "" || bytes.Equal(dir.load(path), data) {
		return nil
	}
	return dir.saveCopy(dir.name(path), data)
}

func (dir lastGood) saveCopy(name string, data []byte) error {
	if err := atomicfile.MakeDir(string(dir), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(string(dir), name), data, 0o600)
}

// names lists the copies.
func (dir lastGood) names() ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(string(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if copyName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// empty reports whether there are no copies of an earlier process.
func (dir lastGood) empty() bool {
	names, _ := dir.names()
	return len(names) == 0 && dir.loadCopy(heldFileName) == nil
}

// keepOnly forgets all copies but these.
func (dir lastGood) keepOnly(keep map[string]bool) error {
	names, err := dir.names()
	for _, name := range names {
		if !keep[name] {
			err = errors.Join(err, os.Remove(filepath.Join(string(dir), name)))
		}
	}
	return err
}
