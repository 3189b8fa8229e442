// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What Remove deletes it names, once; and what is not an agent's stays, with its directory.
func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	fill := func() {
		t.Helper()
		must(t, Make(dir))
		must(t, os.MkdirAll(filepath.Join(Cache(dir), "x"), 0o700))
		for _, file := range []string{StatusFile(dir), atomicfile.Temp(StatusFile(dir))} {
			must(t, os.WriteFile(file, []byte("{"), 0o644))
		}
	}
	expect := func(want ...string) {
		t.Helper()
		if removed, err := Remove(dir); err != nil || !slices.Equal(removed, want) {
			t.Errorf("removed %q (%v), want %q", removed, err, want)
		}
	}
	fill()
	expect(Cache(dir), atomicfile.Temp(StatusFile(dir)), StatusFile(dir), dir)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is left")
	}
	expect()
	fill()
	notes := filepath.Join(dir, "notes")
	must(t, os.WriteFile(notes, nil, 0o644))
	expect(Cache(dir), atomicfile.Temp(StatusFile(dir)), StatusFile(dir))
	if _, err := os.Stat(notes); err != nil {
		t.Errorf("another program's file: %v", err)
	}
}
