// SPDX-License-Identifier: Apache-2.0

package control

import (
	"os"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
)

// A node that does not forward IPv6 has a warning while there is a service of IPv6, and none when
// there is none.
func TestForwardingOfWhatIsServed(t *testing.T) {
	netnstest.New(t)
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
