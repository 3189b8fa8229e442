// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConntrackNotices(t *testing.T) {
	dir := t.TempDir()
	for name, value := range map[string]string{"nf_conntrack_max": "65536", "nf_conntrack_tcp_timeout_established": "432000", "nf_conntrack_udp_timeout": "30"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o644))
	}
	const established = "nf_conntrack_tcp_timeout_established"
	for _, c := range []struct {
		p    ConntrackParameter
		want string
	}{
		{ConntrackParameter{"conntrack.tcpEstablishedTimeout", established, 86400, true},
			"conntrack.tcpEstablishedTimeout: kube-proxy would set net.netfilter.nf_conntrack_tcp_timeout_established to 86400; the kernel has 432000, "},
		{ConntrackParameter{"conntrack.udpTimeout", "nf_conntrack_udp_timeout", 30, true}, "to 30; the kernel has 30, "},
		{ConntrackParameter{"conntrack.tcpBeLiberal", "nf_conntrack_tcp_be_liberal", 1, true}, "to 1; the kernel has no such parameter, "},
		{ConntrackParameter{"conntrack.min", "nf_conntrack_max", 131072, false}, "to 131072; the kernel has 65536, "},
		{ConntrackParameter{"conntrack.min", "nf_conntrack_max", 65536, false}, ""},
		{ConntrackParameter{"conntrack.min", "nf_conntrack_max", 65536, true}, "to 65536; the kernel has 65536, "},
		{ConntrackParameter{"conntrack.tcpEstablishedTimeout", established, 86400, false}, ""},
		{ConntrackParameter{"conntrack.tcpBeLiberal", "nf_conntrack_tcp_be_liberal", 1, false}, ""},
	} {
		if got := c.p.notice(dir); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: got %q, want %q", c.p, got, c.want)
		}
	}
}
