// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// Sysctl sets a kernel parameter of the host's network namespace, named as in
// sysctl(8), such as "net.ipv4.ip_forward". A slash stands for a dot inside a
// device's name.
func (h *Host) Sysctl(name, value string) error {
	return h.ns.do(func() error { return writeSysctl(name, value) })
}

// writeSysctl needs a thread in the namespace: /proc/sys/net shows that of the
// thread that opens it.
func writeSysctl(name, value string) error {
	file := path.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(name))
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

type setting struct{ name, value string }

// Both "all" and "default" are set throughout: for some parameters the kernel
// takes the larger of "all" and the device's, for some the device's alone.
var (
	// hostSettings make addresses usable at once, and disable what would change
	// routes during a test.
	hostSettings = []setting{
		{"net.ipv6.conf.all.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		{"net.ipv6.conf.all.accept_ra", "0"},
		{"net.ipv6.conf.default.accept_ra", "0"},
		{"net.ipv4.conf.all.accept_redirects", "0"},
		{"net.ipv4.conf.default.accept_redirects", "0"},
		{"net.ipv6.conf.all.accept_redirects", "0"},
		{"net.ipv6.conf.default.accept_redirects", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
	}
	// nodeSettings have the strict reverse-path filter on purpose: waggle works
	// with it.
	nodeSettings = []setting{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv4.conf.all.rp_filter", "1"},
		{"net.ipv4.conf.default.rp_filter", "1"},
	}
	// bridgeSettings keep the bridge's own packets out of captures.
	bridgeSettings = []setting{
		{"net.ipv6.conf.all.disable_ipv6", "1"},
		{"net.ipv6.conf.default.disable_ipv6", "1"},
	}
)

func (ns *namespace) apply(settings []setting) error {
	return ns.do(func() error {
		for _, s := range settings {
			if err := writeSysctl(s.name, s.value); err != nil {
				return err
			}
		}
		return nil
	})
}
