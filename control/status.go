// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/waggle-lb/waggle/control/atomicfile"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/loader"
)

// Status is what the agent tells of itself in a file, so that it can still be read when the
// agent is gone.
type Status struct {
	PID      int                 `json:"pid"`
	Version  string              `json:"version"`
	Node     string              `json:"node"`
	PinDir   string              `json:"pinDir"`
	Source   string              `json:"source"`
	Blind    *Blindness          `json:"blind,omitempty"`
	Started  time.Time           `json:"started"`
	Written  time.Time           `json:"written,omitzero"` // when it was last known to be right; not in the file, but its time
	Proxy    ProxyStatus         `json:"proxy"`
	Devices  []DeviceStatus      `json:"devices"`
	Links    []loader.LinkStatus `json:"links"`
	Flows    FlowCensus          `json:"flows"`
	Problems []source.Problem    `json:"problems,omitempty"`
	Held     []string            `json:"held,omitempty"`     // Services that the source keeps though they are gone
	Warnings []string            `json:"warnings,omitempty"` // may keep something from working
	Notices  []string            `json:"notices,omitempty"`  // good to know
}

// Blindness tells since when, and why, the source does not see changes.
type Blindness struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

func (b *Blindness) equal(other *Blindness) bool {
	if b == nil || other == nil {
		return b == other
	}
	return b.Since.Equal(other.Since) && b.Why == other.Why
}

const statusFile = "status.json"

// runDirMode is that of a run directory that we make: everybody may read the status.
const runDirMode = 0o755

// statusWriter keeps the status file.
type statusWriter struct {
	dir     string
	written []byte // what the file holds
}

// write replaces the file in one step if the status has changed, else only the file's time.
func (w *statusWriter) write(s *Status) error {
	raw, err := json.Marshal(s) // of many devices: it takes half as long as for people to read
	if err != nil {
		return err
	}
	file := filepath.Join(w.dir, statusFile)
	if now := time.Now(); bytes.Equal(raw, w.written) && os.Chtimes(file, now, now) == nil {
		return nil
	}
	if err := atomicfile.MakeDir(w.dir, runDirMode); err != nil {
		return err
	}
	if err := atomicfile.Write(file, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	w.written = raw
	return nil
}

// ReadStatus reads what an agent with this run directory wrote last.
func ReadStatus(dir string) (*Status, error) {
	file := filepath.Join(dir, statusFile)
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

// CacheDir is where, in a run directory, sources keep what must outlive a restart.
func CacheDir(runDir string) string { return filepath.Join(runDir, "last-good") }

// RemoveRunFiles deletes what an agent wrote to its run directory, and the directory if it is empty
// then. It names what it deletes.
func RemoveRunFiles(dir string) (removed []string, err error) {
	status := filepath.Join(dir, statusFile)
	for _, path := range []string{CacheDir(dir), atomicfile.Temp(status), status} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	if os.Remove(dir) == nil { // it may hold what isn't ours, or be a mount point
		removed = append(removed, dir)
	}
	return removed, nil
}

// Alive tells whether the agent that wrote the status still runs.
func (s *Status) Alive() bool { return loader.Held(s.PinDir) }

// sourceNotices are what the source has to say that is no problem.
func sourceNotices(src source.Source) []string {
	if n, ok := src.(source.Noticer); ok {
		return n.Notices()
	}
	return nil
}
