// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// detachLinks does what `bpftool link detach` does to the links of a hook.
func detachLinks(t *testing.T, dir, prefix string) {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(dir, "links", prefix+"*"))
	must(t, err)
	if len(pins) == 0 {
		t.Fatalf("no links %s* in %s", prefix, dir)
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		must(t, err)
		must(t, l.Detach())
		must(t, l.Close())
	}
}

func expectNotInEffect(t *testing.T, d *Datapath, cgroup string, hooks ...string) {
	t.Helper()
	err := d.CheckCgroup(cgroup)
	if err == nil {
		t.Errorf("%s: all in effect, want %v not to be", cgroup, hooks)
		return
	}
	for _, hook := range append(hooks, cgroup) {
		if !strings.Contains(err.Error(), hook) {
			t.Errorf("error %q does not say %s", err, hook)
		}
	}
	for hook := range sockets {
		if len(hooks) == 1 && hook != hooks[0] && strings.Contains(err.Error(), hook) {
			t.Errorf("error %q names %s, want %v only", err, hook, hooks)
		}
	}
}

// Links of a cgroup that is gone, or beside the one that matters, look intact.
func TestCheckCgroup(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	cgroup, other := newCgroup(t, "here"), newCgroup(t, "beside")
	below := filepath.Join(cgroup, "below")
	must(t, os.Mkdir(below, 0o755))
	t.Cleanup(func() { os.Remove(below) })
	all := []string{"connect4", "sendmsg6", "getpeername4"}
	expectNotInEffect(t, d, cgroup, all...)
	must(t, d.AttachCgroup(cgroup))
	must(t, d.CheckCgroup(cgroup))
	must(t, d.CheckCgroup(below))
	expectNotInEffect(t, d, other, all...)

	detachLinks(t, dir, "cgroup-connect4")
	expectNotInEffect(t, d, cgroup, "connect4")
	must(t, d.AttachCgroup(cgroup))
	must(t, d.CheckCgroup(cgroup))
	expectCgroup(t, d, cgroup)

	must(t, os.Remove(below))
	must(t, os.Remove(cgroup))
	if err := d.CheckCgroup(cgroup); err == nil || !strings.Contains(err.Error(), cgroup) {
		t.Errorf("the cgroup is gone: %v", err)
	}
	must(t, os.Mkdir(cgroup, 0o755))
	expectNotInEffect(t, d, cgroup, all...)
	must(t, d.AttachCgroup(cgroup))
	must(t, d.CheckCgroup(cgroup))
}

func TestIsCgroupRoot(t *testing.T) {
	nested := newCgroup(t, t.Name())
	if root := filepath.Dir(nested); !IsCgroupRoot(root) {
		t.Skipf("%s is not the root: the test runs in a container", root)
	}
	if IsCgroupRoot(nested) || IsCgroupRoot("/no/such/directory") {
		t.Error("what isn't is taken for the root")
	}
}

// A program that was detached from a device can be attached again, and is the only one there then.
func TestAttachAgain(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	ifindex := addVeth(t, "w0", "w1")
	attachExternal(t, d, ifindex)
	for range 2 {
		detachLinks(t, dir, "xdp-")
		if hasTCX(t) {
			detachLinks(t, dir, "tcx-")
		} else {
			for _, filter := range filtersOf(t, "w0") {
				must(t, netlink.FilterDel(filter))
			}
		}
		for hook, status := range linksOf(t, d) {
			if status.Attached || status.Ifindex != 0 {
				t.Errorf("%s: detached, but %+v", hook, status)
			}
		}
		attachExternal(t, d, ifindex)
		expectPrograms(t, d, external)
	}
}
