// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// TestRefusals: each mistake gives one line that names it, and the status 1.
func TestRefusals(t *testing.T) {
	s := newSetup(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	frame := make([]byte, 60)
	writeCapture(t, file("whole.pcap"), layers.LinkTypeEthernet, frame, frame)
	writeCapture(t, file("ppp.pcap"), layers.LinkTypePPP, frame)
	whole, err := os.ReadFile(file("whole.pcap"))
	check(t, err)
	check(t, os.WriteFile(file("cut.pcap"), whole[:len(whole)-10], 0o600))
	check(t, os.WriteFile(file("no.pcap"), []byte("no capture, but longer than its header"), 0o600))
	check(t, os.WriteFile(file("empty.pcap"), nil, 0o600))
	for _, c := range []struct {
		args string
		want []string
	}{
		{"", []string{"--to", "--pcap"}},
		{"--to here", []string{"--to here", "address:port"}},
		{"--to 192.168.1.2", []string{"--to 192.168.1.2", "a port"}},
		{"--to 192.168.1.2:80 --from there", []string{"--from there"}},
		{"--to 192.168.1.2:80 --from [fd00::1]:80", []string{"--from [fd00::1]:80", "family"}},
		{"--to 192.168.1.2:80 --from 192.168.1.2:80", []string{"--from 192.168.1.2", "--socket"}},
		{"--to 192.168.1.2:80 --from 8.8.8.8:80", []string{"8.8.8.8", "--device"}},
		{"--to 192.168.1.2:80 --proto gre", []string{"--proto gre"}},
		{"--proto arp --to fd00::1", []string{"--to fd00::1", "--proto ndp"}},
		{"--proto ndp --to 192.168.1.240", []string{"--to 192.168.1.240", "--proto arp"}},
		{"--proto arp --to 192.168.1.240:80", []string{"--to 192.168.1.240:80", "address alone"}},
		{"--proto arp --to 192.168.1.240 --from fd00::1", []string{"--from fd00::1", "family"}},
		{"--proto arp --to 192.168.1.240 --pod local", []string{"--pod local", "--proto arp"}},
		{"--proto arp --to 192.168.1.240 --device eth0 --leaving", []string{"--leaving", "--proto arp"}},
		{"--to 192.168.1.2:80 --flags syn,urg", []string{"--flags urg"}},
		{"--to 192.168.1.2:80 --ttl 0", []string{"--ttl 0"}},
		{"--to 192.168.1.2:80 --ttl 256", []string{"--ttl"}},
		{"--to 192.168.1.2:80 --size 10", []string{"--size 10", "40"}},
		{"--to 192.168.1.2:80 --device nothing0", []string{"--device nothing0", "no such device"}},
		{"--to 192.168.1.2:80 --pod nobody", []string{"--pod nobody", "host name"}},
		{"--to 192.168.1.2:80 --pod nobody --device eth0", []string{"--device", "--pod"}},
		{"--to 192.168.1.2:80 --socket --pod nobody", []string{"--pod nobody"}},
		{"--to 192.168.1.2:80 --socket --pod nobody --netns /proc/1/ns/net", []string{"--netns", "--pod"}},
		{"--to 192.168.1.2:80 --leaving", []string{"--leaving", "--device"}},
		{"--to 192.168.1.2:80 --netns /proc/1/ns/net", []string{"--netns", "--socket"}},
		{"--to 192.168.1.2:80 --socket --device eth0", []string{"--device", "--socket"}},
		{"--to 192.168.1.2:80 --socket --proto sctp", []string{"--proto sctp"}},
		{"--to 192.168.1.2:80 --socket --netns /nowhere", []string{"--netns", "/nowhere"}},
		{"--to 192.168.1.2:80 --socket --netns /dev/null", []string{"--netns /dev/null"}},
		{"--to 192.168.1.2:80 -o xml", []string{"-o xml"}},
		{"--pcap /nowhere", []string{"--pcap", "/nowhere"}},
		{"--pcap " + file("whole.pcap") + " --to 192.168.1.2:80", []string{"--to", "--pcap"}},
		{"--pcap " + file("whole.pcap") + " --device nothing0", []string{"--device nothing0"}},
		{"--pcap " + file("ppp.pcap"), []string{"ppp.pcap", "packet 1", "link type 9"}},
		{"--pcap " + file("cut.pcap") + " --device eth0", []string{"cut.pcap", "packet 2", "cut short"}},
		{"--pcap " + file("no.pcap"), []string{"no.pcap", "no pcap file"}},
		{"--pcap " + file("empty.pcap"), []string{"empty.pcap", "shorter"}},
		{"--to 192.168.1.2:80 --pin-dir " + s.agent.PinDir + "-nowhere", []string{s.agent.PinDir + "-nowhere", "has an agent run"}},
	} {
		args := append([]string{"explain"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--pin-dir") {
			args = append(args, "--pin-dir", s.agent.PinDir)
		}
		result, err := s.agent.Run(args...)
		check(t, err)
		lines := strings.Split(strings.TrimSpace(result.Stderr), "\n")
		line := lines[0]
		if result.Status != 1 || len(lines) != 1 || !strings.HasPrefix(line, "waggle: ") {
			t.Errorf("waggle %s: %s, want one line and the status 1", strings.Join(args, " "), result)
		}
		for _, w := range c.want {
			if !strings.Contains(line, w) {
				t.Errorf("waggle %s: %q, which doesn't say %q", strings.Join(args, " "), line, w)
			}
		}
	}
	t.Run("unprivileged", func(t *testing.T) {
		result, err := s.agent.RunAs(65534, "explain", "--to", "192.168.1.2:80")
		check(t, err)
		if line := result.Refusal(); !strings.Contains(line, "root") {
			t.Errorf("as nobody: %s", result)
		}
	})
}
