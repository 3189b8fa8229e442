// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// readIn reads the rules of the test's own network namespace, after a program has written some.
func readIn(t *testing.T, rules string, program ...string) *Rules {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	if _, err := exec.LookPath(program[0]); err != nil {
		t.Skipf("needs %s (Debian: iptables, nftables)", program[0])
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin = strings.NewReader(rules)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s\n%s", program, err, out, rules)
	}
	r, err := Read()
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// toPod is the first packet of a connection to a pod's port 8080.
func toPod() Packet {
	return Packet{Dst: netip.MustParseAddr("10.244.0.5"), Proto: unix.IPPROTO_TCP, DstPort: 8080, Out: "veth0"}
}

func only(t *testing.T, chains []*Chain) *Chain {
	t.Helper()
	if len(chains) != 1 {
		t.Fatalf("chains %v, want one", chains)
	}
	return chains[0]
}

// TestJudgeNFT: the fate of a packet by rules of nft.
func TestJudgeNFT(t *testing.T) {
	for rules, want := range map[string]Fate{
		``:                                 Drops,
		`accept`:                           Passes,
		`ip daddr 10.244.0.0/16 accept`:    Passes,
		`ip daddr 10.244.0.0/20 accept`:    Passes,
		`ip daddr 10.245.0.0/16 accept`:    Drops,
		`ip daddr != 10.245.0.0/16 accept`: Passes,
		`ip daddr { 10.1.0.0/16, 10.244.0.5 } accept`:            Passes,
		`ip daddr { 10.1.0.0/16, 10.2.0.1 } accept`:              Drops,
		`ip saddr 192.168.1.0/24 accept`:                         MayDrop,
		`ip6 daddr fd00::/16 accept`:                             Drops,
		`oifname "veth*" accept`:                                 Passes,
		`oifname "veth0" accept`:                                 Passes,
		`oifname "docker0" accept`:                               Drops,
		`oifname { "docker0", "cni0" } accept`:                   Drops,
		`iifname "eth0" accept`:                                  MayDrop,
		`tcp dport 8080 accept`:                                  Passes,
		`tcp dport 8000-8099 accept`:                             Passes,
		`tcp dport { 80, 8080 } accept`:                          Passes,
		`tcp dport { 80, 443 } accept`:                           Drops,
		`tcp sport 1024-65535 accept`:                            MayDrop,
		`udp dport 8080 accept`:                                  Drops,
		`meta mark 0x10000 accept`:                               MayDrop,
		`ct state established,related accept`:                    Drops,
		`ct state new accept`:                                    Passes,
		`ct state invalid drop; accept`:                          Passes,
		`ct state vmap { established : accept, new : jump sub }`: Passes,
		`ct state vmap { established : accept, invalid : drop }`: Drops,
		`tcp dport vmap { 8080 : accept }`:                       Passes,
		`limit rate 10/second accept`:                            MayDrop,
		`meta mark set 1 accept`:                                 Passes,
		`counter log jump sub`:                                   Passes,
		`goto sub`:                                               Passes,
		`jump empty`:                                             Drops,
		`return; accept`:                                         Drops,
		`tcp dport >= 8000 tcp dport < 8080 accept`:              Drops,
		`tcp dport vmap { 1-99 : drop, 8000-9000 : accept }`:     Passes,
		`ip saddr vmap { 10.0.0.0/8 : accept }`:                  MayDrop,
		`reject; accept`:                                         Drops,
		`ip daddr 10.244.0.0/16 drop; accept`:                    Drops,
		`ip saddr 10.9.0.0/16 drop; accept`:                      MayDrop,
	} {
		t.Run(rules, func(t *testing.T) {
			r := readIn(t, `table inet owner {
	chain sub { ip daddr 10.244.0.0/16 accept; }
	chain empty { }
	chain forward { type filter hook forward priority filter; policy drop; `+rules+`; }
}`, "nft", "-f", "-")
			got, err := only(t, r.At(Forward)).Judge(toPod())
			must(t, err)
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

const dockers = `*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
CNI
COMMIT
`

// TestJudgeIPTables: the fate of a packet by rules of iptables, as docker and CNI plugins make them.
func TestJudgeIPTables(t *testing.T) {
	for rules, want := range map[string]Fate{
		``: MayDrop, // packets from docker0 are accepted
		`-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`: Passes,
		`-A FORWARD -p tcp -m tcp --dport 8080 -j ACCEPT`:                 Passes,
		`-A FORWARD -m conntrack --ctstate NEW -j ACCEPT`:                 Passes,
		`-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`: MayDrop,
		`-A FORWARD -p tcp -m multiport --dports 1,2 -j ACCEPT`:           MayDrop,
		`-A FORWARD -j REJECT --reject-with icmp-host-prohibited`:         MayDrop,
		`-I FORWARD 1 -j REJECT --reject-with icmp-host-prohibited`:       Drops,
		`-A FORWARD -i docker+ -j DROP
-A FORWARD ! -i docker0 -g FLANNEL-FWD
-A FLANNEL-FWD ! -d 10.245.0.0/16 -p tcp -j ACCEPT`: MayDrop,
		`-A FORWARD -o veth+ -g FLANNEL-FWD
-A FLANNEL-FWD ! -d 10.245.0.0/16 ! -p udp -j ACCEPT`: Passes,
		`-A FORWARD -o veth+ -g FLANNEL-FWD
-A FLANNEL-FWD -d 10.245.0.0/16 -j ACCEPT`: MayDrop,
	} {
		for _, command := range []string{"iptables-nft-restore", "iptables-legacy-restore"} {
			t.Run(command+" "+rules, func(t *testing.T) {
				r := readIn(t, strings.Replace(dockers, "CNI", rules, 1), command)
				got, err := only(t, r.At(Forward)).Judge(toPod())
				must(t, err)
				if got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		}
	}
}

// Answers belong to connections that the kernel knows.
func TestJudgeReply(t *testing.T) {
	r := readIn(t, strings.Replace(dockers, "CNI", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", 1), "iptables-nft-restore")
	p := Packet{Src: netip.MustParseAddr("10.244.0.5"), Proto: unix.IPPROTO_TCP, In: "veth0", Reply: true}
	if got, err := only(t, r.At(Forward)).Judge(p); err != nil || got != Passes {
		t.Errorf("got %v (%v), want that it passes", got, err)
	}
	p.IPv6, p.Src = true, netip.MustParseAddr("fd00::1")
	if got, err := only(t, r.At(Forward)).Judge(p); err != nil || got != Passes {
		t.Errorf("of IPv6: got %v (%v), want that it passes: iptables says nothing of it", got, err)
	}
}

// TestFilters, of contract 58: the owner's rules for service traffic are distinguished from other
// rules, and from those of Kubernetes and its plugins.
func TestFilters(t *testing.T) {
	packets := []Packet{
		{Proto: unix.IPPROTO_TCP, DstPort: 30080, In: "eth0"},
		{Proto: unix.IPPROTO_UDP, DstPort: 30053, In: "eth0"},
	}
	for rules, want := range map[string]bool{
		``:                            false,
		`accept`:                      false,
		`tcp dport 30080 drop`:        true,
		`tcp dport 30000-32767 drop`:  true,
		`udp dport { 30053, 1 } drop`: true,
		`tcp dport 22 drop`:           false,
		`tcp dport != 22 drop`:        true,
		`ip saddr 203.0.113.7 drop`:   true,
		`iifname "eth0" ip saddr != 10.0.0.0/8 drop`:             true,
		`iifname "docker0" drop`:                                 false,
		`iifname "lo" accept`:                                    false,
		`iifname "eth0" accept; tcp dport 30080 drop`:            false,
		`ct state invalid drop`:                                  false,
		`ct state vmap { established : accept, invalid : drop }`: false,
		`tcp dport 30080 meta mark set 7`:                        true,
		`tcp dport 30080 ct mark set 7`:                          true,
		`tcp dport 30080 reject`:                                 true,
		`tcp dport 30080 counter`:                                false,
		`jump own`:                                               true,
		`jump KUBE-FIREWALL`:                                     false,
		`tcp dport vmap { 22 : drop, 30080 : goto own }`:         true,
		`tcp dport vmap { 22 : drop }`:                           false,
	} {
		t.Run(rules, func(t *testing.T) {
			r := readIn(t, `table inet owner {
	chain own { ip saddr 203.0.113.7 drop; }
	chain KUBE-FIREWALL { ip saddr 203.0.113.7 drop; }
	chain prerouting { type filter hook prerouting priority raw; `+rules+`; }
}`, "nft", "-f", "-")
			got, err := only(t, r.At(Prerouting)).Filters(packets)
			must(t, err)
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// A drop policy counts as the owner's if no other program has chains beside it.
func TestFiltersPolicy(t *testing.T) {
	for rules, want := range map[string]bool{"": true, "chain DOCKER { }": false} {
		r := readIn(t, `table ip filter { `+rules+`
	chain FORWARD { type filter hook forward priority filter; policy drop; }
}`, "nft", "-f", "-")
		if got, err := only(t, r.At(Forward)).Filters([]Packet{toPod()}); err != nil || got != want {
			t.Errorf("%q: got %v (%v), want %v", rules, got, err, want)
		}
	}
}

// A chain of iptables-legacy is named as such. Its policy and rules count as the owner's like others.
func TestFiltersLegacy(t *testing.T) {
	for rules, want := range map[string]string{
		":FORWARD DROP [0:0]":                                         "ip6 filter FORWARD of iptables-legacy",
		":FORWARD DROP [0:0]\n:DOCKER - [0:0]":                        "",
		"-A FORWARD -s fd00:1::/64 -j DROP":                           "ip6 filter FORWARD of iptables-legacy",
		"-A FORWARD -p tcp -m tcp --dport 22 -j DROP":                 "",
		"-A FORWARD -p tcp -m tcp --dport 8080 -j MARK --set-xmark 1": "ip6 filter FORWARD of iptables-legacy",
	} {
		t.Run(rules, func(t *testing.T) {
			r := readIn(t, "*filter\n"+rules+"\nCOMMIT\n", "ip6tables-legacy-restore")
			p := toPod()
			p.IPv6, p.Dst = true, netip.MustParseAddr("fd00::5")
			got := ""
			c := only(t, r.At(Forward))
			filters, err := c.Filters([]Packet{toPod(), p})
			must(t, err)
			if filters {
				got = c.String()
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
