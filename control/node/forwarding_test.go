// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestForwarding(t *testing.T) {
	const v4, v6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
	for _, c := range []struct {
		ipv4, ipv6 string // the kernel's values; empty: no such file
		serves     Families
		want       []string
	}{
		{"0", "0", Families{}, nil},
		{"0", "0", Families{IPv4: true}, []string{"net.ipv4.ip_forward is 0"}},
		{"0", "0", Families{IPv6: true}, []string{"net.ipv6.conf.all.forwarding is 0"}},
		{"0", "0", Families{true, true}, []string{"net.ipv4.ip_forward is 0", "net.ipv6.conf.all.forwarding is 0"}},
		{"1", "0", Families{IPv4: true}, nil},
		{"1", "2", Families{true, true}, nil},
		{"1", "", Families{true, true}, nil},
	} {
		dir := t.TempDir()
		for name, value := range map[string]string{v4: c.ipv4, v6: c.ipv6} {
			must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
			if value != "" {
				must(t, os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o644))
			}
		}
		err := CheckForwarding(dir, c.serves)
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
