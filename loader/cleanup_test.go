// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/bpf"
)

// linkExists asks the kernel.
func linkExists(t *testing.T, id link.ID) bool {
	t.Helper()
	l, err := link.NewFromID(id)
	if err == nil {
		l.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestCleanup(t *testing.T) {
	newNetns(t)
	dir, cgroup := newPinDir(t), newCgroup(t, t.Name())
	tcx, clsact := addVeth(t, "w0", "w1"), addVeth(t, "w2", "w3")
	d := mustLoad(t, small(dir))
	attachExternal(t, d, tcx)
	must(t, d.AttachCgroup(cgroup))
	d.clsact = true // a machine has links or filters; Cleanup need not know which
	must(t, d.AttachTC(clsact, Pod))
	must(t, d.LoadRest())
	links, err := d.Links()
	must(t, err)
	mustClose(t, d)
	for _, status := range links {
		if !status.Attached {
			t.Fatalf("before: %+v", status)
		}
	}
	files := 0
	for _, name := range shown { // a host that permits no iterators has none
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			files++
		}
	}

	removed, err := Cleanup(dir, quiet())
	must(t, err)
	spec, err := bpf.Spec()
	must(t, err)
	qdiscs, unlisted := 1, 2 // filters: where there are links, Links looks for no others
	if !hasTCX(t) {
		qdiscs, unlisted = 2, 0
	}
	if want := len(links) + unlisted + len(d.collection.Programs) + len(takePinning(spec)) + 1 + files + 4 + qdiscs; len(removed) != want {
		t.Errorf("removed %d things, want %d (links, programs, maps and their layouts, files, directories, qdiscs): %q", len(removed), want, removed)
	}
	for _, status := range links {
		if status.LinkID != 0 && linkExists(t, status.LinkID) {
			t.Errorf("%s is still there", status.Hook)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	for attach, at := range map[ebpf.AttachType]int{ebpf.AttachTCXIngress: tcx, ebpf.AttachTCXEgress: tcx} {
		if got := attached(t, at, attach); len(got) != 0 {
			t.Errorf("%v still runs %v", attach, got)
		}
	}
	dev, err := netlink.LinkByIndex(tcx)
	must(t, err)
	if xdp := dev.Attrs().Xdp; xdp != nil && xdp.Attached {
		t.Errorf("XDP still runs %d", xdp.ProgId)
	}
	expectQdisc(t, "w2", "")
	if got := inCgroup(t, cgroup); got != 0 {
		t.Errorf("%d socket programs are left", got)
	}
	if removed, err := Cleanup(dir, quiet()); err != nil || len(removed) != 0 {
		t.Errorf("a second Cleanup removed %v, %v", removed, err)
	}
}

// Some pins were removed by hand, others were added.
func TestCleanupOfAMess(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	d := mustLoad(t, clsactOptions(dir))
	attachExternal(t, d, ifindex)
	must(t, d.Map("runtime").Pin(filepath.Join(dir, "links", "no-link")))
	mustClose(t, d)
	must(t, os.RemoveAll(filepath.Join(dir, "maps")))
	must(t, os.Remove(filepath.Join(dir, "programs", "waggle_xdp")))
	_, err := Cleanup(dir, quiet())
	must(t, err)
	expectQdisc(t, "w0", "")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	// Nothing is left but filters.
	d = mustLoad(t, clsactOptions(dir))
	must(t, d.AttachTC(ifindex, External))
	mustClose(t, d)
	must(t, os.RemoveAll(dir))
	removed, err := Cleanup(dir, quiet())
	if err != nil || len(removed) != 3 {
		t.Errorf("Cleanup removed %q, %v, want two filters and a qdisc", removed, err)
	}
}

func TestOpen(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	if _, err := Open(dir); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("Open of nothing: got %v, want ErrNotLoaded", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open has made %s", dir)
	}
	d := mustLoad(t, small(dir))
	must(t, d.AttachXDP(addVeth(t, "w0", "w1")))
	must(t, d.Map("devices").Put(uint32(5), bpf.Device{Flags: 1}))
	v, err := Open(dir)
	must(t, err)
	defer v.Close()
	var got bpf.Device
	must(t, v.Map("devices").Lookup(uint32(5), &got))
	if got.Flags != 1 {
		t.Errorf("device 5: %+v, want flags 1", got)
	}
	if err := v.Map("devices").Put(uint32(6), bpf.Device{}); err == nil {
		t.Error("the view can be written to")
	}
	ours, err := d.Links()
	must(t, err)
	if theirs, err := v.Links(); err != nil || !slices.Equal(theirs, ours) {
		t.Errorf("links: %+v, %v, want %+v", theirs, err, ours)
	}
	now, hz, err := v.Jiffies()
	must(t, err)
	if datapathNow, datapathHZ, _ := d.Jiffies(); hz != datapathHZ || datapathNow-now > 10*hz {
		t.Errorf("jiffies: %d of %d, want about %d of %d", now, hz, datapathNow, datapathHZ)
	}
}
