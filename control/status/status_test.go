// SPDX-License-Identifier: Apache-2.0

package status

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/control/rundir"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStatusFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, err := Read(dir)
	if err == nil || !strings.Contains(err.Error(), "no agent has run here yet") || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("no status: got error %v", err)
	}
	want := &Status{
		PID: 1, Version: "devel", Node: "node-a", PinDir: "/sys/fs/bpf/no-such", Source: "manifests in /x",
		Started:  time.Unix(1, 0).UTC(),
		Proxy:    Proxy{Synced: true, Services: 3, Failures: []string{"f"}},
		Devices:  []Device{{Name: "eth0", Ifindex: 2, Role: RoleExternal, XDP: "native", TC: "attached", Express: true, Addr4: "10.0.0.1"}},
		Links:    []Link{{Hook: "xdp", Kind: "xdp-native", Device: "eth0", Ifindex: 2, Program: "waggle_xdp", ProgramID: 5, LinkID: 6, Attached: true}},
		Flows:    FlowCensus{FamilyCensus{1, 2}, FamilyCensus{3, 4}, 5},
		Problems: []Problem{{File: "a.yaml", Document: 1, Object: "Service default/a", Message: "bad", Since: time.Unix(3, 0).UTC()}},
		Warnings: []string{"w"},
		Notices:  []string{"n"},
	}
	file, w := rundir.StatusFile(dir), NewWriter(dir)
	for version := range 2 { // the second replaces the first
		next := *want
		next.Version = fmt.Sprint("v", version)
		want = &next
		must(t, w.Write(want))
		first, err := os.Stat(file)
		must(t, err)
		must(t, os.Chtimes(file, time.Unix(2, 0), time.Unix(2, 0)))
		must(t, w.Write(want)) // nothing new but that it is still right
		second, err := os.Stat(file)
		must(t, err)
		if !os.SameFile(first, second) || second.ModTime().Before(first.ModTime()) {
			t.Errorf("the status has not changed, but the file was replaced, or its time is old: %v", second.ModTime())
		}
		got, err := Read(dir)
		must(t, err)
		if !got.Written.Equal(second.ModTime()) {
			t.Errorf("written at %v, but the file's time is %v", got.Written, second.ModTime())
		}
		got.Written = time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files %v, error %v", entries, err)
	}
}

func TestStatusFileSpoilt(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(rundir.StatusFile(dir), []byte("{"), 0o644))
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), rundir.StatusFile(dir)) {
		t.Errorf("got error %v", err)
	}
}

// TestNames: other programs read the file, and `waggle status -o json`, by these names.
func TestNames(t *testing.T) {
	raw, err := json.Marshal(&Status{
		PID: 1, Version: "v", Node: "n", PinDir: "/p", Source: "s", Blind: &Blindness{Since: time.Unix(1, 0).UTC(), Why: "w"},
		Started: time.Unix(2, 0).UTC(), Written: time.Unix(3, 0).UTC(),
		Proxy:    Proxy{Synced: true, LastSync: time.Unix(4, 0).UTC(), Services: 2, Failures: []string{"f"}},
		Devices:  []Device{{Name: "e", Ifindex: 2, Role: RoleOverlay, XDP: "x", TC: "t", Express: true, Addr4: "4", Addr6: "6"}},
		Links:    []Link{{Hook: "h", Kind: "k", Device: "d", Ifindex: 3, Cgroup: "c", Program: "p", ProgramID: 4, LinkID: 5, Attached: true}, {}},
		Flows:    FlowCensus{IPv4: FamilyCensus{Confirmed: 1, Unconfirmed: 2}, Expired: 3},
		Problems: []Problem{{File: "f", Document: 1, Object: "o", Field: "g", Message: "m", Since: time.Unix(5, 0).UTC()}},
		Held:     []string{"h"}, Warnings: []string{"w"}, Notices: []string{"n"}, Pools: true,
		Addresses: []Address{{Address: "a", Pool: "p", PoolGone: true, Services: []string{"s"}, Since: time.Unix(6, 0).UTC()}},
	})
	must(t, err)
	const want = `{"pid":1,"version":"v","node":"n","pinDir":"/p","source":"s","blind":{"since":"1970-01-01T00:00:01Z","why":"w"},` +
		`"started":"1970-01-01T00:00:02Z","written":"1970-01-01T00:00:03Z",` +
		`"proxy":{"synced":true,"lastSync":"1970-01-01T00:00:04Z","services":2,"failures":["f"]},` +
		`"devices":[{"name":"e","ifindex":2,"role":"overlay","xdp":"x","tc":"t","express":true,"addr4":"4","addr6":"6"}],` +
		`"links":[{"hook":"h","kind":"k","device":"d","ifindex":3,"cgroup":"c","program":"p","programID":4,"linkID":5,"attached":true},` +
		`{"hook":"","kind":"","program":"","programID":0,"attached":false}],` +
		`"flows":{"ipv4":{"confirmed":1,"unconfirmed":2},"ipv6":{"confirmed":0,"unconfirmed":0},"expired":3},` +
		`"problems":[{"file":"f","document":1,"object":"o","field":"g","message":"m","since":"1970-01-01T00:00:05Z"}],` +
		`"held":["h"],"pools":true,"addresses":[{"address":"a","pool":"p","poolGone":true,"services":["s"],"since":"1970-01-01T00:00:06Z"}],"warnings":["w"],"notices":["n"]}`
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
}
