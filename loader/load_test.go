// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

func TestLoadFromNothing(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))

	spec, err := bpf.Spec()
	must(t, err)
	for _, name := range wantedAtStart(spec, false, false) {
		id, err := pinnedProgramID(filepath.Join(dir, "programs", name))
		if err != nil || id != programID(t, d, name) {
			t.Errorf("program %s is pinned as %d (%v), want %d", name, id, err, programID(t, d, name))
		}
	}
	for _, name := range takePinning(spec) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "maps", name), nil)
		if err != nil {
			t.Errorf("map %s: %v", name, err)
			continue
		}
		m.Close()
	}
	if _, err := os.Stat(filepath.Join(dir, "maps", "scratch_map")); err == nil {
		t.Error("scratch_map is pinned")
	}
	for _, pin := range pinsBelow(t, dir) {
		if strings.HasSuffix(pin, stagedSuffix) {
			t.Errorf("%s was left behind", pin)
		}
	}
	expectPrograms(t, d, nil)
}

func TestLoadSetsConstants(t *testing.T) {
	newNetns(t)
	spec, err := bpf.Spec()
	must(t, err)
	opts, err := Options{NodePortMin: 20000, NodePortMax: 20010, MasqueradeAll: true, AnswerPing: true, SocketLBHost: true, Timeouts: Timeouts{UDP: 5 * time.Second}}.complete()
	must(t, err)
	must(t, configure(spec, opts, 300, btf.NewCache()))
	cookie, err := NetnsCookie()
	must(t, err)
	if cookie == 0 {
		t.Error("the network namespace has no cookie")
	}
	for name, want := range map[string]uint64{
		"hz": 300, "nodeport_min": 20000, "nodeport_max": 20010, "snat_min": 49152, "snat_max": 65535,
		"timeout_new": 60 * 300, "timeout_tcp": 86400 * 300, "timeout_tcp_half_closed": 3600 * 300,
		"timeout_tcp_closed": 60 * 300, "timeout_tcp_reset": 10 * 300, "timeout_udp": 5 * 300,
		"host_netns_cookie": cookie, "masquerade_all": 1, "answer_ping": 1, "socket_lb_host": 1,
	} {
		if got := variable(t, spec.Variables[name]); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

func variable(t *testing.T, v *ebpf.VariableSpec) uint64 {
	t.Helper()
	var wide uint64
	for i, b := range slices.Clone(v.Value) {
		wide |= uint64(b) << (8 * i)
	}
	return wide
}

func TestLoadKeepsMaps(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	var value bpf.FlowSet4
	value.At[3].Daddr = 7
	must(t, d.Map("flows4").Put(uint32(1), value))
	before := programID(t, d, "waggle_ingress")
	mustClose(t, d)

	d = mustLoad(t, small(dir))
	var got bpf.FlowSet4
	must(t, d.Map("flows4").Lookup(uint32(1), &got))
	if got != value {
		t.Errorf("flows after a restart: %+v, want %+v", got, value)
	}
	if programID(t, d, "waggle_ingress") == before {
		t.Error("the programs were not loaded anew")
	}
	id, err := pinnedProgramID(filepath.Join(dir, "programs", "waggle_ingress"))
	if err != nil || id != programID(t, d, "waggle_ingress") {
		t.Errorf("the pinned program is %d (%v), want %d", id, err, programID(t, d, "waggle_ingress"))
	}
}

func TestLoadRefusedWhileHeld(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	_, err := Load(small(dir))
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("second Load: got %v, want ErrHeld and our pid", err)
	}
	if _, err := Cleanup(dir, quiet()); !errors.Is(err, ErrHeld) {
		t.Errorf("Cleanup while an agent runs: got %v, want ErrHeld", err)
	}
	mustClose(t, d)
	mustLoad(t, small(dir))
}

// A check whether an agent runs must not keep one from starting.
func TestLoadDespiteHeld(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	if Held(dir) {
		t.Error("Held, but there is no directory")
	}
	mustClose(t, mustLoad(t, small(dir)))
	if Held(dir) {
		t.Error("Held, but the agent has gone")
	}
	probe, err := os.Open(dir)
	must(t, err)
	must(t, unix.Flock(int(probe.Fd()), unix.LOCK_SH))
	time.AfterFunc(50*time.Millisecond, func() { probe.Close() })
	mustLoad(t, small(dir))
	if !Held(dir) {
		t.Error("not Held, but an agent runs")
	}
}

func TestLoadKeepsMapSize(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	opts := small(dir)
	mustClose(t, mustLoad(t, opts))

	logger, logged := logtest.NewNullLogger()
	opts.Log = logrus.NewEntry(logger)
	opts.MapSizes["flows4"] = 8192
	d := mustLoad(t, opts)
	if got := bpf.FlowsOfSets(d.Map("flows4").MaxEntries()); got != 4096 {
		t.Errorf("flows4 has room for %d flows, want the 4096 it was made with", got)
	}
	if !slices.ContainsFunc(logged.AllEntries(), func(e *logrus.Entry) bool {
		return e.Level == logrus.WarnLevel && strings.Contains(e.Message, "flows4") && strings.Contains(e.Message, "waggle cleanup")
	}) {
		t.Errorf("logged %v, want a warning that names flows4 and the cure", logged.AllEntries())
	}
}

// The programs before and after an upgrade must look for a flow in the same place.
func TestLoadKeepsSeed(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	seed := func() uint64 {
		d := mustLoad(t, small(dir))
		defer mustClose(t, d)
		var state bpf.RuntimeState
		must(t, d.Map("runtime").Lookup(uint32(0), &state))
		return state.Seed
	}
	if first, second := seed(), seed(); first == 0 || first != second {
		t.Errorf("seeds %d and %d, want the same twice, and not 0", first, second)
	}
}

func TestLoadRefusesIncompatibleMap(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	peer := addVeth(t, "w0", "w1")
	d := mustLoad(t, small(dir))
	must(t, d.AttachTC(peer, External))
	before, pins := linksOf(t, d), pinsBelow(t, dir)
	mustClose(t, d)
	foreign := pinForeignMap(t, filepath.Join(dir, "maps", "devices"), &ebpf.MapSpec{
		Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 16,
	})

	_, err := Load(small(dir))
	if err == nil || !errors.Is(err, ebpf.ErrMapIncompatible) ||
		!strings.Contains(err.Error(), foreign) || !strings.Contains(err.Error(), "waggle cleanup") {
		t.Errorf("Load: got %v, want an error that names %s and the cure", err, foreign)
	}
	// The programs that ran before still run.
	names, err := pinDir(dir).linkNames()
	must(t, err)
	devices, err := allDevices()
	must(t, err)
	status, err := pinDir(dir).status(names, devices, pinDir(dir).programNames(), "")
	must(t, err)
	for _, s := range status {
		if s != before[s.Hook] || !s.Attached {
			t.Errorf("after a failed Load: %+v, before: %+v", s, before[s.Hook])
		}
	}
	if got := pinsBelow(t, dir); !slices.Equal(got, pins) {
		t.Errorf("pins after a failed Load: %v, before: %v", got, pins)
	}
}

func pinForeignMap(t *testing.T, path string, spec *ebpf.MapSpec) string {
	t.Helper()
	must(t, os.Remove(path))
	m, err := ebpf.NewMap(spec)
	must(t, err)
	defer m.Close()
	must(t, m.Pin(path))
	return path
}

// Another version has other counters: they must not keep it from loading.
func TestLoadRenewsCounters(t *testing.T) {
	t.Run("of the layout before", func(t *testing.T) { loadRenewsCounters(t, 0) })
	t.Run("of this layout, but another size", func(t *testing.T) { loadRenewsCounters(t, layoutOf("counters").version) })
}

// loadRenewsCounters has Load find counters with a layout version; 0: with none.
func loadRenewsCounters(t *testing.T, version uint32) {
	newNetns(t)
	dir := newPinDir(t)
	mustClose(t, mustLoad(t, small(dir)))
	pinForeignMap(t, filepath.Join(dir, "maps", "counters"), &ebpf.MapSpec{
		Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: 3,
	})
	if version > 0 {
		setLayout(t, dir, "counters", version)
	}
	d := mustLoad(t, small(dir))
	if got, want := d.Map("counters").MaxEntries(), uint32(bpf.HookCount)*uint32(bpf.VerdictCount); got != want {
		t.Errorf("counters has %d elements, want %d", got, want)
	}
	v, err := Open(dir)
	must(t, err)
	defer v.Close()
	if got := v.Map("counters").MaxEntries(); got != d.Map("counters").MaxEntries() {
		t.Errorf("the pinned counters have %d elements, want %d", got, d.Map("counters").MaxEntries())
	}
}

func TestLoadRemovesLeftovers(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	// As if a process had been killed before it put these pins in force.
	must(t, d.Program("waggle_pod").Pin(filepath.Join(dir, "programs", "waggle_pod"+stagedSuffix)))
	must(t, d.Map("runtime").Pin(filepath.Join(dir, "programs", "no_longer_there")))
	mustClose(t, d)
	mustLoad(t, small(dir))
	spec, err := bpf.Spec()
	must(t, err)
	got, err := listDir(filepath.Join(dir, "programs"))
	must(t, err)
	if want := wantedAtStart(spec, false, false); len(got) != len(want) {
		t.Errorf("pinned programs: %v, want %v", got, want)
	}
}

func TestLoadRefusesDirectories(t *testing.T) {
	newNetns(t)
	for dir, want := range map[string]string{
		t.TempDir():                "mount -t bpf bpf /sys/fs/bpf",
		t.TempDir() + "/a/b":       "mount -t bpf bpf /sys/fs/bpf",
		bpffs + "/waggle-test.dot": "'.'",
	} {
		_, err := Load(small(dir))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Load in %s: got %v, want an error that says %q", dir, err, want)
		}
	}
}

func TestCleanupLeavesForeignFiles(t *testing.T) {
	newNetns(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "maps")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Cleanup(dir, quiet()); err == nil {
		t.Error("Cleanup of a directory that is not on a bpf file system: got no error")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{NodePortMin: 2, NodePortMax: 1}, "node port range"},
		{Options{SNATMin: 5}, "SNAT port range"},
		{Options{NodePortMin: 30000, NodePortMax: 50000}, "overlaps"},
	} {
		if _, err := tt.opts.complete(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want an error about %q", tt.opts, err, tt.want)
		}
	}
	for _, timeouts := range []Timeouts{{New: time.Second}, {TCP: 1000 * time.Hour}, {UDP: -1}} {
		if _, err := timeouts.complete().inJiffies(1000); err == nil {
			t.Errorf("%+v: got no error", timeouts)
		}
	}
	spec, err := bpf.Spec()
	must(t, err)
	for _, name := range []string{"counters", "runtime", "scratch_map", "sock_peers", "no_such"} {
		if err := resizeMaps(spec, map[string]uint32{name: 5}); err == nil {
			t.Errorf("resizing %s: got no error", name)
		}
	}
}
