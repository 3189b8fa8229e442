// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWatchThatFails(t *testing.T) {
	d := newDirectory(t)
	w := newWatch(d.allocations())
	defer w.close()
	info, err := os.Stat(d.path)
	d.must(err)
	missing := filepath.Join(d.path, "missing")
	w.enter(d.path, info)
	w.enter(missing, info)
	wantProblems(t, d.path, w.settle(), "missing:0  : can't be watched, changes are seen late: no such file")
	w.enter(d.path, info)
	wantProblems(t, d.path, w.settle())
	if got := w.system.WatchList(); len(got) != 1 || got[0] != d.path {
		t.Errorf("watched are %q, want %s alone", got, d.path)
	}
}

func TestEventsOfOurOwn(t *testing.T) {
	w := &watch{allocations: "/etc/m/.waggle-allocations.json"}
	for path, want := range map[string]bool{
		"/etc/m/a.yaml":                            true,
		"/etc/m/..data":                            true,
		"/etc/m/.waggle-allocations.json":          true,
		"/etc/m/.waggle-allocations.json.lock":     false,
		"/etc/m/..waggle-allocations.json.tmp":     false,
		"/etc/m/sub/.waggle-allocations.json.lock": true,
	} {
		if got := w.concerns(path); got != want {
			t.Errorf("%s is of interest: %v, want %v", path, got, want)
		}
	}
}
