// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

const bpffs = "/sys/fs/bpf"

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads BPF programs and makes network namespaces")
	}
}

// newNetns gives the test a thread in a network namespace of its own. The thread ends with it.
func newNetns(t *testing.T) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
}

var pinDirs atomic.Int32

// newPinDir names a pin directory of the test's own, and cleans it up.
func newPinDir(t *testing.T) string {
	t.Helper()
	needRoot(t)
	if err := topo.MountBPFFS(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(bpffs, fmt.Sprintf("waggle-loader-test-%d-%d", os.Getpid(), pinDirs.Add(1)))
	t.Cleanup(func() {
		if _, err := Cleanup(dir, quiet()); err != nil {
			t.Errorf("clean up %s: %v", dir, err)
		}
	})
	return dir
}

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

// small keeps the tables small, so that tests fit a machine's memory.
func small(dir string) Options {
	return Options{
		PinDir: dir,
		Log:    quiet(),
		MapSizes: map[string]uint32{
			"flows4": 4096, "flows6": 4096,
			"slots": 4096, "backends": 4096, "services4": 4096, "services6": 4096,
			"service_names": 4096, "sock_flows": 1024,
		},
	}
}

func mustLoad(t *testing.T, opts Options) *Datapath {
	t.Helper()
	d, err := Load(opts)
	if err != nil {
		t.Fatalf("Load: %+v", err)
	}
	t.Cleanup(func() { mustClose(t, d) })
	return d
}

func mustClose(t *testing.T, d *Datapath) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addVeth makes a pair and returns the index of the first.
func addVeth(t *testing.T, name, peer string) int {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
	must(t, netlink.LinkAdd(veth))
	return ifindexOf(t, name)
}

func ifindexOf(t *testing.T, name string) int {
	t.Helper()
	dev, err := netlink.LinkByName(name)
	must(t, err)
	return dev.Attrs().Index
}

func deleteDevice(t *testing.T, name string) {
	t.Helper()
	dev, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(dev))
}

// hasTCX reports whether tc programs are attached by TCX here. Otherwise they are clsact filters.
func hasTCX(t *testing.T) bool {
	t.Helper()
	_, err := link.QueryPrograms(link.QueryOptions{Target: ifindexOf(t, "lo"), Attach: ebpf.AttachTCXIngress})
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrNotSupported) {
		t.Fatal(err)
	}
	return err == nil
}

// attached gives the programs and links that the kernel has at a hook.
func attached(t *testing.T, at int, attach ebpf.AttachType) []link.AttachedProgram {
	t.Helper()
	if parent, ok := clsactParents[attach]; ok && !hasTCX(t) {
		return filtersAt(t, at, parent)
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: at, Attach: attach})
	must(t, err)
	return result.Programs
}

var clsactParents = map[ebpf.AttachType]uint32{
	ebpf.AttachTCXIngress: netlink.HANDLE_MIN_INGRESS, ebpf.AttachTCXEgress: netlink.HANDLE_MIN_EGRESS,
}

func filtersAt(t *testing.T, at int, parent uint32) []link.AttachedProgram {
	t.Helper()
	dev, err := netlink.LinkByIndex(at)
	must(t, err)
	filters, err := netlink.FilterList(dev, parent)
	must(t, err)
	var programs []link.AttachedProgram
	for _, filter := range filters {
		programs = append(programs, link.AttachedProgram{ID: ebpf.ProgramID(filter.(*netlink.BpfFilter).Id)})
	}
	return programs
}

// linksOf is the part of Links that is about one hook, by hook name.
func linksOf(t *testing.T, d *Datapath) map[string]LinkStatus {
	t.Helper()
	all, err := d.Links()
	must(t, err)
	byHook := make(map[string]LinkStatus)
	for _, status := range all {
		if other, ok := byHook[status.Hook]; ok {
			t.Fatalf("hook %s twice: %+v and %+v", status.Hook, other, status)
		}
		byHook[status.Hook] = status
	}
	return byHook
}

// expectPrograms checks what is attached: program by hook.
func expectPrograms(t *testing.T, d *Datapath, want map[string]string) {
	t.Helper()
	links := linksOf(t, d)
	if len(links) != len(want) {
		t.Errorf("links: got %+v, want those of %v", links, want)
	}
	for hook, program := range want {
		status := links[hook]
		if status.Program != program || !status.Attached {
			t.Errorf("%s: got %+v, want %s, attached", hook, status, program)
		}
		if id := programID(t, d, program); status.ProgramID != id {
			t.Errorf("%s runs the program %d, want %d: the newly loaded one", hook, status.ProgramID, id)
		}
	}
}

func programID(t *testing.T, d *Datapath, name string) ebpf.ProgramID {
	t.Helper()
	info, err := d.Program(name).Info()
	must(t, err)
	id, _ := info.ID()
	return id
}

// otherProgram is a program that is not waggle's.
func otherProgram(t *testing.T, typ ebpf.ProgramType, ret int32) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "somebody_else",
		Type:         typ,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, ret), asm.Return()},
		License:      "GPL",
	})
	must(t, err)
	t.Cleanup(func() { program.Close() })
	return program
}

// pinsBelow lists all pins.
func pinsBelow(t *testing.T, dir string) []string {
	t.Helper()
	var pins []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			pins = append(pins, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	slices.Sort(pins)
	return pins
}
