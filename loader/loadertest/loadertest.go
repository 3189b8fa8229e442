// SPDX-License-Identifier: Apache-2.0

// Package loadertest loads the datapath for tests: the real one, but with small maps. It is removed
// with the test.
package loadertest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/test/topo"
)

// Quiet returns a log that discards everything.
func Quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

var dirs atomic.Int32

// NewPinDir returns a pin directory of the test's own, which is cleaned up after the test. It skips the
// test if the user isn't root.
func NewPinDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads the datapath")
	}
	if err := topo.MountBPFFS(); err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-%d", os.Getpid(), dirs.Add(1))
	t.Cleanup(func() {
		if _, err := loader.Cleanup(dir, Quiet()); err != nil {
			t.Errorf("clean up %s: %v", dir, err)
		}
	})
	return dir
}

// Load loads the datapath into a pin directory of the test's own, and returns both. Maps have 1024
// elements each, unless an edit of the options changes that.
func Load(t *testing.T, edits ...func(*loader.Options)) (dp *loader.Datapath, dir string) {
	t.Helper()
	dir = NewPinDir(t)
	sizes := map[string]uint32{}
	for _, name := range []string{"flows4", "flows6", "slots", "backends", "services4", "services6", "service_names", "sock_flows"} {
		sizes[name] = 1024
	}
	opts := loader.Options{PinDir: dir, Log: Quiet(), MapSizes: sizes}
	for _, edit := range edits {
		edit(&opts)
	}
	dp, err := loader.Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dp.Close(); err != nil {
			t.Errorf("close the datapath: %v", err)
		}
	})
	return dp, dir
}

// DetachLinks does what `bpftool link detach` does to the links whose pins in a pin directory match a
// pattern of filepath.Match.
func DetachLinks(t *testing.T, dir, pattern string) {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(dir, "links", pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(pins) == 0 {
		t.Fatalf("there are no links %s", pattern)
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
