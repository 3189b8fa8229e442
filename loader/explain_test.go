// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// TestTwinConstants: the twin has the constants of the running programs, with whatever options those were loaded.
func TestTwinConstants(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	opts := small(dir)
	opts.NodePortMin, opts.NodePortMax = 20000, 20100
	opts.Timeouts.UDP = 33 * time.Second
	opts.AnswerPing = true
	d := mustLoad(t, opts)
	twin := twinOf(t, dir)
	var min uint16
	var udp, sets uint32
	var pings, explain bool
	for name, into := range map[string]any{
		"nodeport_min": &min, "timeout_udp": &udp, "answer_ping": &pings, "explain": &explain, "flow_sets4": &sets,
	} {
		must(t, twin.Constant(name, into))
	}
	if min != 20000 || udp != 33*d.hz || !pings || !explain || sets != d.Map("flows4").MaxEntries() {
		t.Errorf("nodeport_min %d, timeout_udp %d (hz %d), answer_ping %t, explain %t, flow_sets4 %d", min, udp, d.hz, pings, explain, sets)
	}
	if err := twin.Constant("nothing", &min); err == nil {
		t.Error("there is a constant called nothing")
	}
}

// TestTwinAsksLiveMaps: the twin reads the maps' present content, and counts nothing there.
func TestTwinAsksLiveMaps(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	ifindex := addVeth(t, "w0", "w1")
	twin := twinOf(t, dir)
	frame := synFrame(t)
	ask := func() bpf.Verdict {
		t.Helper()
		trace, err := twin.Packet("waggle_pod", ifindex, frame, 0)
		must(t, err)
		return trace.Verdict
	}
	if got := ask(); got != bpf.VerdictNotOurs {
		t.Errorf("with no service: %s, want not-ours", bpf.VerdictName(got))
	}
	key := bpf.ServiceKey4{Addr: binary.NativeEndian.Uint32(frame[30:34]), Port: binary.NativeEndian.Uint16(frame[36:38]), Proto: 6}
	must(t, d.Map("services4").Put(key, bpf.Service{Id: 7, Flags: bpf.ServiceClusterIP}))
	if got := ask(); got != bpf.VerdictRefused {
		t.Errorf("with a service that has no endpoint: %s, want refused", bpf.VerdictName(got))
	}
	cpus, err := ebpf.PossibleCPU()
	must(t, err)
	for i := range d.Map("counters").MaxEntries() {
		counters := make([]bpf.Counter, cpus)
		must(t, d.Map("counters").Lookup(i, &counters))
		for _, c := range counters {
			if c != (bpf.Counter{}) {
				t.Fatalf("element %d of counters is %+v", i, c)
			}
		}
	}
	notes, err := twin.Socket(bpf.SocketQuestion{Addr: [4]uint32{key.Addr}, Port: key.Port, Protocol: 6, Family: 2}, 0)
	must(t, err)
	if bpf.Verdict(notes.Socket.Verdict) != bpf.VerdictRefused || notes.Service.Id != 7 {
		t.Errorf("a socket: %+v, want it refused by service 7", notes)
	}
}

// TestTwinOfAnotherBuild: programs that differ from the running ones are not explained.
func TestTwinOfAnotherBuild(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	ifindex := addVeth(t, "w0", "w1")
	must(t, replacePin(otherProgram(t, ebpf.SchedCLS, 0), d.pins.programPin("waggle_pod")))
	twin := twinOf(t, dir)
	if _, err := twin.Packet("waggle_pod", ifindex, synFrame(t), 0); !errors.Is(err, errOtherBuild) {
		t.Errorf("got %v, want %v", err, errOtherBuild)
	}
	_, err := twin.Packet("waggle_ingress", ifindex, synFrame(t), 0)
	must(t, err)
}

func twinOf(t *testing.T, dir string) *Twin {
	t.Helper()
	view, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { view.Close() })
	twin, err := view.Twin()
	must(t, err)
	t.Cleanup(twin.Close)
	return twin
}

// synFrame is a SYN from 10.0.0.5:4000 to 10.96.0.1:80, in a frame to a MAC that new devices don't have. A pod's
// hook takes it all the same.
func synFrame(t *testing.T) []byte {
	t.Helper()
	return append([]byte{
		0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0,
		0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5, 10, 96, 0, 1,
		0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
	}, make([]byte, 10)...)
}
