// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/maps"
)

func addrs(list string) (out []netip.Addr) {
	for _, s := range strings.Fields(list) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestRow11NodePortAddresses(t *testing.T) {
	const all = "10.0.0.1 10.0.0.2 192.0.2.1 2001:db8::1 fd00::1"
	const primary = "10.0.0.1 fd00::1"
	for _, c := range []struct{ flag, primary, want string }{
		{"", primary, primary},
		{"primary", primary, primary},
		{"", "", all}, // no Node object names them
		{"primary", "10.9.9.9", ""},
		{"all", primary, all},
		{"192.0.2.0/24", primary, "192.0.2.1"},
		{"192.0.2.77/24,fd00::/8", primary, "192.0.2.1 fd00::1"},
		{"0.0.0.0/0", primary, "10.0.0.1 10.0.0.2 192.0.2.1"},
		{"172.16.0.0/12", "", ""},
		{"all,172.16.0.0/12", "", all},
	} {
		var values []string
		if c.flag != "" {
			values = strings.Split(c.flag, ",")
		}
		n, err := ParseNodePortAddresses(values)
		must(t, err)
		got := n.choose(addrs(all), addrs(c.primary))
		if diff := cmp.Diff(addrs(c.want), got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%q, primary %q (-want +got):\n%s", c.flag, c.primary, diff)
		}
	}
}

func TestNodePortAddressesErrors(t *testing.T) {
	for values, want := range map[string]string{
		"10.0.0.1":             `--nodeport-addresses: "10.0.0.1" is neither a CIDR, nor "primary", nor "all"`,
		"10.0.0.0/8,any":       `--nodeport-addresses: "any" is neither a CIDR, nor "primary", nor "all"`,
		"10.0.0.0/8,primary":   `--nodeport-addresses: "primary" can't be combined with other values`,
		"primary,2001:db8::/8": `--nodeport-addresses: "primary" can't be combined with other values`,
	} {
		if _, err := ParseNodePortAddresses(strings.Split(values, ",")); err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", values, err, want)
		}
	}
}

func TestHealthCheckAddresses(t *testing.T) {
	primary := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	for _, c := range []struct {
		flag    string
		primary []netip.Addr
		family  maps.Family
		want    []string
		any     bool
	}{
		{"primary", primary, maps.IPv4, []string{"10.0.0.1/32"}, true},
		{"primary", primary, maps.IPv6, []string{"fd00::1/128"}, true},
		{"primary", primary[:1], maps.IPv6, nil, false},
		{"primary", nil, maps.IPv6, nil, true},
		{"all", primary, maps.IPv4, nil, true},
		{"10.0.0.0/8,192.0.2.0/24", primary, maps.IPv4, []string{"10.0.0.0/8", "192.0.2.0/24"}, true},
		{"10.0.0.0/8", primary, maps.IPv6, nil, false},
	} {
		n, err := ParseNodePortAddresses(strings.Split(c.flag, ","))
		must(t, err)
		got, any := n.CIDRs(c.family, c.primary)
		if diff := cmp.Diff(c.want, got); diff != "" || any != c.any {
			t.Errorf("%+v: got %v, %v", c, got, any)
		}
	}
}
