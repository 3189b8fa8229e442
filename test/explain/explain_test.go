// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/test/topo"
)

var update = flag.Bool("update", false, "write testdata anew")

// situation is one that a packet or a process may meet, and how it is asked about.
type situation struct {
	name string
	args string
	// before brings it about, and returns further arguments.
	before func(t *testing.T, s *setup) []string
	// either is a regular expression of what may be one endpoint or another.
	either string
}

const (
	client  = " --from 192.168.1.10:4000"
	client6 = " --from [fd00:192:168:1::10]:4000"
	pod     = " --from 10.244.0.2:4000"
)

var situations = []situation{
	{name: "express", args: "--to 192.168.1.2:30001" + client},
	{name: "express-ipv6", args: "--to [fd00:192:168:1::2]:30001" + client6},
	{name: "express-sctp", args: "--to 192.168.1.2:30013 --proto sctp" + client},
	{name: "stack", args: "--to 192.168.1.2:30002" + client},
	{name: "choice", args: "--to 192.168.1.2:30003" + client},
	{name: "nobody-named", args: "--to 192.168.1.2:30001 --device eth0"},
	{name: "confirmed-flow", args: "--to 192.168.1.2:30001 --flags ack", before: openFlow},
	{name: "reset-of-no-flow", args: "--to 192.168.1.2:30001 --flags rst" + client},
	{name: "pod", args: "--to 10.96.0.1:80" + pod},
	{name: "pod-local-policy", args: "--to 10.96.0.5:80" + pod},
	{name: "turn", args: "--to 10.96.0.2:80" + pod},
	{name: "no-endpoint", args: "--to 192.168.1.2:30004" + client},
	{name: "no-such-port", args: "--to 10.96.0.1:81" + pod},
	{name: "no-such-node-port", args: "--to 192.168.1.2:30999" + client},
	{name: "no-local-endpoint", args: "--to 192.168.1.2:30005" + client},
	{name: "source-range", args: "--to 203.0.113.6:80" + client},
	{name: "source-range-excludes", args: "--to 203.0.113.6:80 --from 192.168.1.20:4000"},
	{name: "affinity-new", args: "--to 192.168.1.2:30007 --from 192.168.1.11:4000"},
	{name: "affinity-known", args: "--to 192.168.1.2:30007" + client, before: beSticky, either: "10.244.1.[23]:8080"},
	{name: "no-route", args: "--to 192.168.1.2:30008" + client},
	{name: "neighbour-unknown", args: "--to 192.168.1.2:30009" + client},
	{name: "ttl", args: "--to 192.168.1.2:30001 --ttl 1" + client},
	{name: "too-big", args: "--to 192.168.1.2:30001 --size 1600" + client},
	{name: "unallocated", args: "--to 10.96.7.7:80" + pod},
	{name: "other-proxy", args: "--to 10.96.0.10:80" + pod},
	{name: "terminating", args: "--to 192.168.1.2:30011" + client},
	{name: "topology", args: "--to 10.96.0.14:80" + pod},
	{name: "ping", args: "--to 10.96.0.1 --proto icmp" + pod},
	{name: "not-ours", args: "--to 192.168.1.3:22" + client},
	{name: "martian", args: "--to 192.168.1.2:30001 --from 127.0.0.1:4000 --device eth0"},
	{name: "own-address", args: "--to 192.168.1.2:30001 --from 192.168.1.2:4000 --device eth0"},
	{name: "own-connection", args: "--to 192.168.1.3:80 --from 192.168.1.2:30123 --device eth0 --leaving"},
	{name: "answer-leaves", args: "--device eth0 --leaving --flags ack", before: openLocalFlow},
	{name: "socket", args: "--socket --to 10.96.0.3:80"},
	{name: "socket-refused", args: "--socket --to 10.96.0.4:80"},
	{name: "socket-node-port-on-loopback", args: "--socket --to 127.0.0.1:30001"},
	{name: "socket-bound-to-loopback", args: "--socket --to 10.96.0.1:80 --from 127.0.0.1"},
	{name: "socket-sends", args: "--socket --to 10.96.0.12:53 --proto udp --sendto"},
	{name: "socket-of-pod", args: "--socket --to 10.96.0.12:53 --proto udp", before: inPod},
	{name: "pod-by-name", args: "--to 10.96.0.1:80", before: named},
	{name: "pod-by-name-ipv6", args: "--to [fd00:10:96::1]:80 --from [fd00:10:244::2]:4000", before: named},
	{name: "socket-of-pod-by-name", args: "--socket --to 10.96.0.12:53 --proto udp", before: named},
	{name: "socket-no-service", args: "--socket --to 192.168.1.3:22"},
	{name: "objects", args: "--to 192.168.1.2:30003 -o json" + client},
	{name: "capture", args: "--device eth0", before: capture},
	{name: "arp-not-announced", args: "--proto arp --to 192.168.1.240 --from 192.168.1.10"},
	{name: "arp-answered", args: "--proto arp --to 192.168.1.240 --from 192.168.1.10", before: announce},
	{name: "ndp-answered", args: "--proto ndp --to fd00:192:168:1::240", before: announce},
	{name: "arp-captured", before: captureARP},
	{name: "arp-lapsed", args: "--proto arp --to 192.168.1.240", before: lapse},
}

// masqueraded are situations of a node without XDP, that translates the source of all that is for a cluster IP.
var masqueraded = []situation{
	{name: "tc-express", args: "--to 192.168.1.2:30001" + client},
	{name: "tc-stack", args: "--to 192.168.1.2:30002" + client},
	{name: "tc-too-big", args: "--to 192.168.1.2:30001 --size 1600" + client},
	{name: "split", args: "--to 10.96.0.2:80" + client},
	{name: "split-of-pod", args: "--to 10.96.0.1:80" + pod},
	{name: "socket-of-pod-masqueraded", args: "--socket --to 10.96.0.1:80", before: inPod},
	{name: "ping-answered", args: "--to 10.96.0.1 --proto icmp" + pod},
}

// openFlow connects to the service `remote`, and returns where from.
func openFlow(t *testing.T, s *setup) []string {
	t.Helper()
	_, reply := s.laptop.OpenTCP(topo.Request{To: at(s.node.IP4, 30001)})
	check(t, reply.Error())
	return []string{"--from", reply.Local.String()}
}

// openLocalFlow connects to the service `local`, and returns its answer's ends.
func openLocalFlow(t *testing.T, s *setup) []string {
	t.Helper()
	_, reply := s.laptop.OpenTCP(topo.Request{To: at(s.node.IP4, 30002)})
	check(t, reply.Error())
	return []string{"--from", "10.244.0.2:8080", "--to", reply.Local.String()}
}

func beSticky(t *testing.T, s *setup) []string {
	t.Helper()
	_, reply := s.laptop.OpenTCP(topo.Request{To: at(s.node.IP4, 30007)})
	_ = reply // one of the endpoints answers, the other is nobody: either is remembered
	return nil
}

func inPod(_ *testing.T, s *setup) []string { return []string{"--netns", s.local.NamespacePath()} }

// named gives the pod `local` a process with a host name, as the kubelet does.
func named(t *testing.T, s *setup) []string {
	t.Helper()
	name := "web-" + strings.Repeat("7d4b9-", 12) + "x"
	process := s.local.Command("unshare", "--uts", "sh", "-c", "echo "+name[:63]+" > /proc/sys/kernel/hostname && echo && exec sleep 1000")
	out, err := process.StdoutPipe()
	check(t, err)
	check(t, process.Start())
	t.Cleanup(func() { _ = process.Stop(time.Second) }) // "terminated", as we know
	_, err = out.Read(make([]byte, 1))
	check(t, err)
	return []string{"--pod", name}
}

// TestSituations: what is said in each situation is in testdata.
func TestSituations(t *testing.T) {
	s := newSetup(t)
	for _, c := range situations {
		t.Run(c.name, func(t *testing.T) { c.compare(t, s) })
	}
}

func TestMasqueraded(t *testing.T) {
	s := newSetup(t, "--xdp=off", "--masquerade-all", "--answer-ping")
	for _, c := range masqueraded {
		t.Run(c.name, func(t *testing.T) { c.compare(t, s) })
	}
}

func (c situation) compare(t *testing.T, s *setup) {
	args := append([]string{"explain"}, strings.Fields(c.args)...)
	if c.before != nil {
		args = append(args, c.before(t, s)...)
	}
	out, err := s.agent.CLI(args...)
	check(t, err)
	got := normal(s, "$ waggle "+strings.Join(args, " ")+"\n"+out)
	if c.either != "" {
		got = regexp.MustCompile(c.either).ReplaceAllString(got, "ENDPOINT")
	}
	path := filepath.Join("testdata", c.name+".txt")
	if *update {
		check(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(want, []byte(got)) {
		t.Errorf("%s (-want +got; go test ./test/explain -update):\n%s", path, cmp.Diff(string(want), got))
	}
}

var temporary = regexp.MustCompile(`/\S*/file\.pcap`)

var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?:[0-9a-f]{2}:){5}[0-9a-f]{2}`), "MAC"},
	{regexp.MustCompile(`\b\d+s ago`), "0s ago"},
	{regexp.MustCompile(`"backend": \d+`), `"backend": ID`},
	{regexp.MustCompile(`192\.168\.1\.10:(?:[3-6]\d{4})`), "192.168.1.10:PORT"},
	{regexp.MustCompile(`192\.168\.1\.2:(?:[12]\d{4})\b`), "192.168.1.2:SNAT"},
}

// normal replaces what differs from run to run.
func normal(s *setup, out string) string {
	out = temporary.ReplaceAllString(out, "file.pcap")
	out = strings.NewReplacer(s.local.HostVeth, "POD-DEVICE", s.local.NamespacePath(), "NETNS").Replace(out)
	for _, v := range varying {
		out = v.what.ReplaceAllString(out, v.with)
	}
	return out
}
