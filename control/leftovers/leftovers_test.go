// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/ipvs"
)

// inNetns puts the thread of the test into a network namespace of its own.
func inNetns(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s (Debian: iptables, nftables)", program)
		}
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program in the test's namespace, and returns its output without comments.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, err.(*exec.ExitError).Stderr)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func remove(t *testing.T) *Report {
	t.Helper()
	r, err := Remove()
	must(t, err)
	return r
}

func seen(t *testing.T) []string {
	t.Helper()
	seen, err := Seen()
	must(t, err)
	return seen
}

// TestIPTables, of contract 36: all of kube-proxy's chains are removed, with the rules that lead to
// them. What kubelet, CNI plugins and people have in the same tables stays as it was.
func TestIPTables(t *testing.T) {
	for _, tt := range []struct{ name, command, seen string }{
		{"nft", "iptables-nft", "iptables-nft's table ip "},
		{"legacy", "iptables-legacy", "iptables-legacy' table "},
		{"nft IPv6", "ip6tables-nft", "iptables-nft's table ip6 "},
		{"legacy IPv6", "ip6tables-legacy", "ip6tables-legacy' table "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inNetns(t, tt.command+"-restore")
			save := func() string {
				return run(t, "", tt.command+"-save", "-t", "nat") + run(t, "", tt.command+"-save", "-t", "filter") +
					run(t, "", tt.command+"-save", "-t", "mangle")
			}
			run(t, families(tt.command, foreignRules), tt.command+"-restore", "--noflush")
			before := save()
			if got := seen(t); len(got) != 0 {
				t.Errorf("before kube-proxy, seen: %v", got)
			}
			run(t, families(tt.command, kubeProxyRules), tt.command+"-restore", "--noflush")
			if got := seen(t); !slices.Contains(got, tt.seen+"nat") || !slices.Contains(got, tt.seen+"filter") {
				t.Errorf("with kube-proxy's rules, seen: %v", got)
			}
			r := remove(t)
			if diff := cmp.Diff(before, save()); diff != "" {
				t.Errorf("what isn't kube-proxy's has changed (-before +after):\n%s", diff)
			}
			if len(r.Removed) != strings.Count(kubeProxyRules, "\n:KUBE") || len(r.Left) != 0 {
				t.Errorf("%d removed, %d left:\n%+v", len(r.Removed), len(r.Left), r)
			}
			if got := seen(t); len(got) != 0 {
				t.Errorf("afterwards, seen: %v", got)
			}
			if again := remove(t); len(again.Removed) != 0 {
				t.Errorf("the second time, removed: %v", again.Removed)
			}
		})
	}
}

// TestForeignUse: KUBE-MARK-MASQ stays while a CNI plugin's rules lead to it, and so does the chain
// where its mark has an effect.
func TestForeignUse(t *testing.T) {
	for _, command := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(command, func(t *testing.T) {
			inNetns(t, command+"-restore")
			run(t, kubeProxyRules, command+"-restore", "--noflush")
			run(t, "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n-A CNI-HOSTPORT-DNAT -p tcp --dport 80 -j KUBE-MARK-MASQ\n"+
				"-A PREROUTING -j CNI-HOSTPORT-DNAT\nCOMMIT\n", command+"-restore", "--noflush")
			r := remove(t)
			if len(r.Left) != 2 {
				t.Errorf("left: %v", r.Left)
			}
			if got := seen(t); len(got) != 0 {
				t.Errorf("what stays for others is taken for kube-proxy's: %v", got)
			}
			got := run(t, "", command+"-save", "-t", "nat")
			for _, want := range []string{
				"-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ",
				"-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
				`-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`,
				"-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully",
			} {
				if !strings.Contains(got, want+"\n") {
					t.Errorf("%s is gone", want)
				}
			}
			for _, gone := range []string{"KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-"} {
				if strings.Contains(got, gone) {
					t.Errorf("%s is still there:\n%s", gone, got)
				}
			}
		})
	}
}

// TestManyChains: more than fit into a single message to the kernel.
func TestManyChains(t *testing.T) {
	inNetns(t, "iptables-nft-restore")
	var chains, rules strings.Builder
	for i := range 3000 {
		name := "KUBE-SVC-" + strings.Repeat("A", 10) + string([]byte{byte('A' + i/676), byte('A' + i/26%26), byte('A' + i%26)})
		chains.WriteString(":" + name + " - [0:0]\n")
		rules.WriteString("-A KUBE-SERVICES -d 10.96.0.1/32 -j " + name + "\n")
	}
	run(t, "*nat\n:KUBE-SERVICES - [0:0]\n"+chains.String()+rules.String()+"-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n", "iptables-nft-restore")
	if r := remove(t); len(r.Removed) != 3001 {
		t.Errorf("%d removed", len(r.Removed))
	}
	if got := run(t, "", "iptables-nft-save", "-t", "nat"); strings.Contains(got, "KUBE") {
		t.Errorf("left:\n%.500s", got)
	}
}

func TestNFTables(t *testing.T) {
	inNetns(t, "nft")
	for _, family := range []string{"ip", "ip6", "inet"} {
		run(t, "", "nft", "add", "table", family, "other")
	}
	run(t, "", "nft", "add", "table", "inet", "kube-proxy") // kube-proxy's name in another family
	before := run(t, "", "nft", "list", "ruleset")
	for _, family := range []string{"ip", "ip6"} {
		run(t, strings.ReplaceAll(kubeProxyNFT, "FAMILY", family), "nft", "-f", "-")
	}
	if got, want := seen(t), []string{"nftables table ip kube-proxy", "nftables table ip6 kube-proxy"}; !slices.Equal(got, want) {
		t.Errorf("seen: %v, want %v", got, want)
	}
	remove(t)
	if diff := cmp.Diff(before, run(t, "", "nft", "list", "ruleset")); diff != "" {
		t.Errorf("before and after:\n%s", diff)
	}
}

func TestIPVSDevice(t *testing.T) {
	inNetns(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: IPVSDevice}}))
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}))
	if got, want := seen(t), []string{"device kube-ipvs0"}; !slices.Equal(got, want) {
		t.Errorf("seen: %v, want %v", got, want)
	}
	if r := remove(t); !slices.Equal(r.Removed, []string{"device kube-ipvs0"}) {
		t.Errorf("removed: %v", r.Removed)
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if l.Attrs().Name == IPVSDevice {
			t.Error("the device is still there")
		}
	}
	if _, err := netlink.LinkByName("other"); err != nil {
		t.Error(err)
	}
}

// TestIPVSDeviceInUse: only open connections to its addresses count as users of the device.
func TestIPVSDeviceInUse(t *testing.T) {
	inNetns(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: IPVSDevice}}))
	device, err := netlink.LinkByName(IPVSDevice)
	must(t, err)
	for _, cidr := range []string{"10.96.0.1/32", "fd00:10:96::1/128"} {
		addr, err := netlink.ParseAddr(cidr)
		must(t, err)
		must(t, netlink.AddrAdd(device, addr))
	}
	for _, c := range []struct {
		virtual string
		state   ipvs.State
		want    int
	}{
		{"10.96.0.1:80", ipvs.Open, 1},
		{"[fd00:10:96::1]:80", ipvs.HalfClosed, 1},
		{"10.96.0.1:80", ipvs.Closed, 0},
		{"10.96.0.1:80", ipvs.Reset, 0},
		{"192.0.2.1:30080", ipvs.Open, 0}, // a node port
	} {
		using, err := usingDevice(device, func(fn func(ipvs.Connection)) (int, error) {
			fn(ipvs.Connection{Virtual: netip.MustParseAddrPort(c.virtual), State: c.state})
			return 0, nil
		})
		if using != c.want || err != nil {
			t.Errorf("%s, state %d: %d connections, %v, want %d", c.virtual, c.state, using, err, c.want)
		}
	}
}

// TestLegacyWithoutItsProgram: an image that holds only waggle still recognises the rules, and says what
// to do.
func TestLegacyWithoutItsProgram(t *testing.T) {
	inNetns(t, "iptables-legacy-restore")
	run(t, kubeProxyRules, "iptables-legacy-restore")
	t.Setenv("PATH", t.TempDir())
	r := remove(t)
	if len(r.Removed) != 0 || len(r.Left) != 3 || !strings.Contains(r.Left[0], "kube-proxy --cleanup") {
		t.Errorf("%+v", r)
	}
}

func TestIsKubeProxys(t *testing.T) {
	for chain, want := range map[string]bool{
		"KUBE-SERVICES": true, "KUBE-SVC-TCOU7JCQXEZGVUNU": true, "KUBE-XLB-TCOU7JCQXEZGVUNU": true,
		"KUBE-FW-TCOU7JCQXEZGVUNU": true, "KUBE-IPVS-FILTER": true,
		"KUBE-FIREWALL": false, "KUBE-KUBELET-CANARY": false, "KUBE-IPTABLES-HINT": false, "KUBE-MARK-DROP": false,
		"KUBE-ROUTER-FORWARD": false, "KUBE-POD-FW-2JZKVXJZ": false, "KUBE-NWPLCY-DEFAULT": false,
		"PREROUTING": false, "cali-PREROUTING": false, "CNI-HOSTPORT-DNAT": false,
	} {
		if isKubeProxys(chain) != want {
			t.Errorf("%s: want %t", chain, want)
		}
	}
}
