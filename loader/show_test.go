// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// TestShow: the files in the pin directory show the live records, and are removed with the rest.
func TestShow(t *testing.T) {
	newNetns(t)
	opts := small(newPinDir(t))
	d := mustLoad(t, opts)
	must(t, d.LoadRest())
	if again, refused, err := d.loadMore([]string{bpf.ShowProgram4}); errors.Is(refused[bpf.ShowProgram4], unix.EPERM) {
		t.Skipf("this host permits no programs for iterators: %v", refused)
	} else if err != nil || len(refused) > 0 {
		t.Fatal(err, refused)
	} else if err := d.pinShow(extraPrograms{loaded: again}, "flows4"); errors.Is(err, unix.EPERM) {
		t.Skipf("this host permits no iterators: %v", err)
	}
	v4 := bpf.Adoption{Family: unix.AF_INET, State: bpf.StateAnswered | bpf.StateConfirmed, Flags: bpf.FlowExpress}
	v4.Key = tupleOf(0x0100000a, 0x0200000a, 0x0100, 0x5000, bpf.ZonePod)
	v4.To = tupleOf(0x0300000a, 0x0400000a, 0x0200, 0x901f, bpf.ZonePod)
	v6 := v4
	v6.Family, v6.State, v6.Flags, v6.Key.Zone = unix.AF_INET6, bpf.StateReset, bpf.FlowReply, uint8(bpf.ZoneLeaving)
	v6.Key.Saddr.Word[3], v6.Key.Proto = 0x01000000, unix.IPPROTO_UDP
	for _, a := range []bpf.Adoption{v4, v6} {
		if added, err := d.Adopt(a); err != nil || !added {
			t.Fatalf("added %t: %v", added, err)
		}
	}
	const columns = "PROTOCOL SEEN SOURCE DESTINATION TO-SOURCE TO-DESTINATION WAY STATE IDLE SERVICE BACKEND\n"
	for name, want := range map[string]string{
		"flows4": "TCP pod 10.0.0.1:1 10.0.0.2:80 10.0.0.3:2 10.0.0.4:8080 express confirmed 0s 0 0\n",
		"flows6": "UDP leaving [0a00:0001:0000:0000:0000:0000:0000:0001]:1 [0a00:0002:0000:0000:0000:0000:0000:0000]:80 " +
			"[0a00:0003:0000:0000:0000:0000:0000:0000]:2 [0a00:0004:0000:0000:0000:0000:0000:0000]:8080 stack-reply reset 0s 0 0\n",
	} {
		got, err := os.ReadFile(filepath.Join(opts.PinDir, name))
		must(t, err)
		if string(got) != columns+want {
			t.Errorf("%s shows\n%swant\n%s", name, got, columns+want)
		}
	}
	mustClose(t, d)
	removed, err := Cleanup(opts.PinDir, quiet())
	must(t, err)
	if all := strings.Join(removed, " "); !strings.Contains(all, "file flows4") || !strings.Contains(all, "file flows6") {
		t.Errorf("removed only: %s", all)
	}
	if _, err := os.Stat(opts.PinDir); !os.IsNotExist(err) {
		t.Errorf("the pin directory is still there: %v", err)
	}
}
