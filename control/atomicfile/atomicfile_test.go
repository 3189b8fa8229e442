// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// umask changes the process's until the test ends.
func umask(t *testing.T, mask int) {
	before := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(before) })
}

func expect(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if got := info.Mode().Perm(); got != mode {
		t.Errorf("%s has mode %v, want %v", path, got, mode)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid() {
		t.Errorf("%s belongs to %d:%d", path, owner.Uid, owner.Gid)
	}
}

// Owner and mode are the same with any umask, in a directory of any kind, and over any file.
func TestOwnerAndMode(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		for _, dirMode := range []fs.FileMode{0o700, 0o755, 0o777 | fs.ModeSetgid} {
			dir := filepath.Join(t.TempDir(), "run")
			must(t, os.Mkdir(dir, 0o700))
			if os.Geteuid() == 0 {
				must(t, os.Chown(dir, 1, 1)) // whose group is passed on
			}
			must(t, os.Chmod(dir, dirMode))
			umask(t, mask)
			file := filepath.Join(dir, "file")
			must(t, Write(file, []byte("new"), 0o644))
			expect(t, file, 0o644)
			must(t, os.Chmod(file, 0o600))
			must(t, os.WriteFile(Temp(file), []byte("of a process that was killed"), 0o400))
			must(t, Write(file, []byte("newer"), 0o644))
			expect(t, file, 0o644)
			inner := filepath.Join(dir, "a", "b")
			must(t, MakeDir(inner, 0o700))
			expect(t, inner, 0o700)
			expect(t, filepath.Dir(inner), 0o755)
			must(t, MakeDir(inner, 0o755))
			expect(t, inner, 0o700)
			if raw, err := os.ReadFile(file); err != nil || string(raw) != "newer" {
				t.Errorf("it holds %q (%v)", raw, err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("the directory holds %v (%v)", entries, err)
			}
		}
	}
}

// A reader never finds a part of a file, nor none.
func TestReadersFindWholeFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	contents := map[string]bool{string(make([]byte, 100_000)): true, "short": true}
	must(t, Write(file, []byte("short"), 0o600))
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if raw, err := os.ReadFile(file); err != nil || !contents[string(raw)] {
					t.Errorf("read %d bytes (%v)", len(raw), err)
					return
				}
			}
		})
	}
	for range 50 {
		for c := range contents {
			must(t, Write(file, []byte(c), 0o600))
		}
	}
	close(done)
	wg.Wait()
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "none", "file"), nil, 0o600); err == nil {
		t.Error("written into a directory that isn't there")
	}
	must(t, Write(filepath.Join(dir, "file"), nil, 0o600))
	if err := MakeDir(filepath.Join(dir, "file"), 0o700); err == nil {
		t.Error("a file is taken for a directory")
	}
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	if err := Write(filepath.Join(dir, "directory"), nil, 0o600); err == nil {
		t.Error("a directory is replaced by a file")
	}
	if _, err := os.Stat(Temp(filepath.Join(dir, "directory"))); err == nil {
		t.Error("a failure leaves its temporary file")
	}
}
