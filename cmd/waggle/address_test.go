// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
)

func TestAddressCommand(t *testing.T) {
	dir := t.TempDir()
	writer := status.NewWriter(dir)
	check := func(want string, args ...string) {
		t.Helper()
		out, err := run(t, append([]string{"--run-dir", dir, "address"}, args...)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, want) {
			t.Errorf("waggle address %v:\n%s\nwant %s", args, out, want)
		}
	}
	if err := writer.Write(&status.Status{}); err != nil {
		t.Fatal(err)
	}
	check("The agent does not follow pools (--load-balancer-pools).", "list")
	check("[]", "list", "-o", "json")
	if err := writer.Write(&status.Status{Pools: true}); err != nil {
		t.Fatal(err)
	}
	check("No Service has an address of a pool.", "list")
	if err := writer.Write(&status.Status{Pools: true, Addresses: []status.Address{
		{Address: "192.0.2.1", Pool: "IPAddressPool ns/first", Services: []string{"default/a", "other/b"}, Since: time.Unix(1000, 0).UTC()},
		{Address: "2001:db8::1", Pool: "CiliumLoadBalancerIPPool second", PoolGone: true, Services: []string{"default/a"}},
	}}); err != nil {
		t.Fatal(err)
	}
	check("192.0.2.1     IPAddressPool ns/first                   default/a,other/b   <none>", "list")
	check("the agent announces nothing (--members-key-file)", "list")
	check("1970-01-01T00:16:40Z", "list", "-o", "wide")
	check("2001:db8::1   CiliumLoadBalancerIPPool second (gone)   default/a           <none>", "list")
	check(`"pool": "IPAddressPool ns/first"`, "get", "192.0.2.1", "-o", "json")
	check("2001:db8::1   CiliumLoadBalancerIPPool second (gone)", "get", "2001:0db8:0::1")
	check("192.0.2.1   IPAddressPool ns/first", "get", "other/b")
	check("no Service has the address 192.0.2.4 of a pool", "get", "192.0.2.4")
	if err := writer.Write(&status.Status{Pools: true, Announces: true, Addresses: []status.Address{
		{Address: "192.0.2.1", Pool: "IPAddressPool ns/first", Services: []string{"default/a"},
			Announced: &status.Announced{Holder: "node-1", Since: time.Now().Add(-time.Hour), Why: "the only node that can"}},
		{Address: "192.0.2.2", Pool: "IPAddressPool ns/first", Services: []string{"default/b"}, Announced: &status.Announced{Why: "no node can"}},
		{Address: "192.0.2.3", Pool: "IPAddressPool ns/first", Services: []string{"default/c"}},
	}}); err != nil {
		t.Fatal(err)
	}
	check("default/a   node-1   1h0m0s   the only node that can", "list")
	check("default/b   <none>            no node can", "list")
	check("default/c   <none>            no L2Advertisement or CiliumL2AnnouncementPolicy is for it", "list")
	check(`"holder": "node-1"`, "get", "192.0.2.1", "-o", "json")
	check("service default/d has no address of a pool", "get", "d")
	check("a/b/c: want NAME or NAMESPACE/NAME", "get", "a/b/c")
}
