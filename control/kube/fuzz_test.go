// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzParseAPIServer: an accepted address is a host and a port, and parses to itself.
func FuzzParseAPIServer(f *testing.F) {
	for _, seed := range []string{
		"10.0.0.1:6443", "https://example.com", "https://[fd00::1]:6443/", "[fe80::1%eth0]:1", "https://u@h", "http://h",
		"https://h:99999", ":", "https://h/%2f", "h:0", "https://[::1", "a b:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		address, err := ParseAPIServer(s)
		if err != nil {
			return
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || !validPort(port) {
			t.Errorf("%q is taken for %q", s, address)
		}
		if again, err := ParseAPIServer(address); err != nil || again != address {
			t.Errorf("%q is taken for %q, and that for %q, %v", s, address, again, err)
		}
	})
}

// FuzzAddressFile: whatever the file of learnt addresses holds, reading it returns addresses or
// none, and what is written is read back.
func FuzzAddressFile(f *testing.F) {
	for _, seed := range []string{"10.0.0.1:6443\n[fd00::1]:6443\n", "", "\x00", "10.0.0.1:0", "[fe80::1%x]:1 1.2.3.4:99999"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "api-servers")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		addresses := readAddresses(file)
		newDialer("192.0.2.1:443", nil, nil).learn(addresses)
		if err := writeAddresses(file, addresses); err != nil {
			t.Fatal(err)
		}
		if again := readAddresses(file); !slices.Equal(again, addresses) {
			t.Errorf("%q was read, and after it was written %q", addresses, again)
		}
	})
}
