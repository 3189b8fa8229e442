// SPDX-License-Identifier: Apache-2.0

package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"time"

	"github.com/waggle-lb/waggle/control/atomicfile"
	"github.com/waggle-lb/waggle/control/rundir"
)

// Writer writes the file of one agent, the only writer of that file. It is not safe for concurrent use.
type Writer struct {
	dir     string
	written *Status // what the file holds
}

// NewWriter makes a Writer for a run directory. The first Write makes the directory if it is missing.
func NewWriter(runDir string) *Writer { return &Writer{dir: runDir} }

// Write replaces the file in one step if the status has changed, else only the file's time. The status, and what
// it refers to, must not be modified afterwards.
func (w *Writer) Write(s *Status) error {
	file := rundir.StatusFile(w.dir)
	// Comparing takes a fraction of the time of encoding.
	if now := time.Now(); reflect.DeepEqual(s, w.written) && os.Chtimes(file, now, now) == nil {
		return nil
	}
	raw, err := json.Marshal(s) // without indentation: with many devices, that takes half as long
	if err != nil {
		return err
	}
	if err := rundir.Make(w.dir); err != nil {
		return err
	}
	if err := atomicfile.Write(file, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	w.written = s
	return nil
}

// Read returns the last status of the agent with this run directory. Its errors are messages for the
// user: no agent has run here, or the user may not read the file.
func Read(runDir string) (*Status, error) {
	file := rundir.StatusFile(runDir)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no agent has run here yet: %s does not exist (--run-dir)", file)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("read the agent's status: run as root: %w", err)
	}
	if err != nil {
		return nil, err
	}
	var s Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	s.Written = info.ModTime().UTC()
	return &s, nil
}
