// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/test/await"
)

// Row 7: the log has one line for each repaired map, and the repairs are counted.
func TestRepairIsLogged(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin(serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1"), serviceObject("six", "fd00::1"))
	f.logs.Reset()
	f.repair(context.Background())
	if entries := f.logs.AllEntries(); len(entries) > 0 {
		t.Errorf("with nothing to repair: %v", entries[0].Message)
	}
	f.must(f.maps.Map("backends").Put(uint32(1), make([]byte, f.maps.Map("backends").ValueSize())))
	for _, name := range []string{"services4", "services6"} {
		var key []byte
		f.must(f.maps.Map(name).NextKey(nil, &key))
		f.must(f.maps.Map(name).Delete(key))
	}
	f.repair(context.Background())
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080", "[fd00::1]:80 -> ")
	var logged []string
	for _, e := range f.logs.AllEntries() {
		logged = append(logged, fmt.Sprint(e.Level, " ", e.Message, " ", e.Data["map"], " ", e.Data["elements"]))
	}
	slices.Sort(logged)
	const what = "warning another program changed a map; repaired "
	if diff := cmp.Diff([]string{what + "backends 1", what + "services4 1", what + "services6 1"}, logged); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	total := f.repairs.Totals()
	if total["backends"] != 1 || total["services6"] != 1 || total["slots"] != 0 {
		t.Errorf("counted %v", total)
	}
}

// A change that comes while all maps are looked at does not wait for the end of that, and what the
// look has already seen is no reason to take the change for another program's.
func TestRepairGivesWay(t *testing.T) {
	f := newProxyFixture(t, nil)
	slice := sliceObject("s07", "10.1.0.1")
	f.begin(append(fleet(20), slice)...)
	f.logs.Reset()
	f.pace.MinSync, f.slice = 0, 0
	f.OnEndpointSlice(slice, sliceObject("s07", "10.1.0.2"))
	f.add(serviceObject("new", "10.96.0.1"))
	f.repair(context.Background())
	for _, want := range []string{"10.96.1.7:80 -> 10.1.0.2:8080", "10.96.0.1:80 -> "} {
		if !slices.Contains(f.served(), want) {
			t.Errorf("after the look at the maps there is no %q, but %v", want, f.served())
		}
	}
	if total := f.repairs.Totals(); total["backends"]+total["services4"]+total["service_names"] > 0 {
		t.Errorf("its own changes were repaired: %v", total)
	}
}

// The trap: an agent whose cgroup was removed, and made anew, has links that look well.
func TestRepairSockets(t *testing.T) {
	root, err := loader.CgroupRoot()
	if err != nil {
		t.Skip(err)
	}
	cgroup := filepath.Join(root, fmt.Sprintf("waggle-control-test-%d", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.Remove(cgroup) })
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Cgroup = cgroup }).start()
	f.begin()
	inEffect := func() {
		t.Helper()
		await.Until(t, func() (string, bool) {
			err := f.dp.CheckCgroup(cgroup)
			return fmt.Sprint(err), err == nil
		})
	}
	inEffect()
	f.logs.Reset()
	loadertest.DetachLinks(t, f.cfg.Loader.PinDir, "cgroup-connect*")
	inEffect()
	await.Until(t, func() (string, bool) {
		logged := slices.ContainsFunc(f.logs.AllEntries(), func(e *logrus.Entry) bool {
			return e.Level == logrus.WarnLevel && strings.HasPrefix(e.Message, "socket programs are not attached") &&
				strings.Contains(fmt.Sprint(e.Data["error"]), "not in effect: connect4, connect6")
		})
		return "the log has no such line", logged
	})

	must(t, os.Remove(cgroup))
	f.awaitWarning("sockets: cgroup "+cgroup, true)
	must(t, os.Mkdir(cgroup, 0o755))
	inEffect()
	f.awaitWarning("sockets: cgroup", false)
	links, err := f.dp.Links()
	must(t, err)
	for _, l := range links {
		if l.Cgroup != cgroup || !l.Attached {
			t.Errorf("not attached: %+v", l)
		}
	}
}
