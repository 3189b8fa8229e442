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

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// lastGood keeps, for each file, what it held when nothing was wrong with it, so that the last
// good state of an object outlives the process too: an agent that starts before a broken file
// must not take its objects for deleted. An empty string keeps nothing.
type lastGood string

func (dir lastGood) name(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:])
}

// load returns what a file held, or nil.
func (dir lastGood) load(path string) []byte {
	if dir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(string(dir), dir.name(path)))
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
	if err := atomicfile.MakeDir(string(dir), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(string(dir), dir.name(path)), data, 0o600)
}

// keepOnly forgets all files but these.
func (dir lastGood) keepOnly(paths map[string]fs.FileInfo) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(string(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keep := map[string]bool{}
	for path := range paths {
		keep[dir.name(path)] = true
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(string(dir), e.Name())))
		}
	}
	return err
}
