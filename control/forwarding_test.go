// SPDX-License-Identifier: Apache-2.0

package control

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestForwarding(t *testing.T) {
	const v4, v6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
	for _, c := range []struct {
		ipv4, ipv6 string // what the kernel has; empty: nothing
		serves     families
		want       []string
	}{
		{"0", "0", families{}, nil},
		{"0", "0", families{ipv4: true}, []string{"net.ipv4.ip_forward is 0"}},
		{"0", "0", families{ipv6: true}, []string{"net.ipv6.conf.all.forwarding is 0"}},
		{"0", "0", families{true, true}, []string{"net.ipv4.ip_forward is 0", "net.ipv6.conf.all.forwarding is 0"}},
		{"1", "0", families{ipv4: true}, nil},
		{"1", "2", families{true, true}, nil},
		{"1", "", families{true, true}, nil},
	} {
		dir := t.TempDir()
		for name, value := range map[string]string{v4: c.ipv4, v6: c.ipv6} {
			must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
			if value != "" {
				must(t, os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o644))
			}
		}
		err := checkForwarding(dir, c.serves)
		if (err == nil) != (len(c.want) == 0) {
			t.Errorf("%+v: got %v", c, err)
		}
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %v, want %s", c, err, want)
			}
		}
	}
}

// A node that does not forward IPv6 is told so when there is a service of IPv6, and no longer when
// there is none.
func TestForwardingOfWhatIsServed(t *testing.T) {
	newNetns(t)
	set := func(name, value string) { must(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0)) }
	set("net/ipv4/ip_forward", "1")
	set("net/ipv6/conf/all/forwarding", "0")
	f := newAgentFixture(t, &testSource{}, nil)
	t.Cleanup(func() { must(t, f.dp.Close()) })
	const about = "net.ipv6.conf.all.forwarding is 0"
	expect := func(want bool) {
		t.Helper()
		f.proxy.sync() // on this thread, in the namespace
		all := f.warnings.all()
		if got := slices.ContainsFunc(all, func(w string) bool { return strings.Contains(w, about) }); got != want {
			t.Errorf("warnings %q; want %q there: %v", all, about, want)
		}
	}
	deliver(f.proxy, serviceObject("web", "10.96.0.1"))
	f.proxy.OnSynced()
	expect(false)
	six := serviceObject("six", "fd00:10:96::1", func(s *v1.Service) { s.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol} })
	f.proxy.OnService(nil, six)
	expect(true)
	f.proxy.OnService(six, nil)
	expect(false)
}
