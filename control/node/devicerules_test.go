// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
)

func rulesOf(external, pods, ignore string) DeviceRules {
	return DeviceRules{External: strings.Fields(external), Pods: strings.Fields(pods), Ignore: strings.Fields(ignore)}
}

// TestDeviceRulesValidate, of contract 45: patterns that can't be, or contradict each other.
func TestDeviceRulesValidate(t *testing.T) {
	for _, c := range []struct {
		rules DeviceRules
		want  string
	}{
		{rulesOf("eth0 [x", "", ""), `--devices: bad pattern "[x"`},
		{rulesOf("", "[x", ""), `--pod-devices: bad pattern "[x"`},
		{rulesOf("", "", "[x"), `--ignore-devices: bad pattern "[x"`},
		{rulesOf("eth[0-9]", "*", ""), ""}, // only the node's devices can show it
		{rulesOf("eth*", "", "eth3"), ""},
		{rulesOf("", "veth*", "vethwe-*"), ""},
		{rulesOf("eth0", "eth0", ""), "--devices eth0 and --pod-devices eth0: both name the same devices"},
		{rulesOf("eth0", "eth*", ""), "--devices eth0 and --pod-devices eth*: both name the same devices"},
		{rulesOf("eth*", "eth0", ""), "--devices eth* and --pod-devices eth0: both name the same devices"},
		{rulesOf("eth0", "", "eth*"), "--ignore-devices eth* and --devices eth0: both name the same devices"},
		{rulesOf("", "veth*", "veth*"), "--ignore-devices veth* and --pod-devices veth*: both name the same devices"},
	} {
		got := ""
		if err := c.rules.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: got error %q, want %q", c.rules, got, c.want)
		}
	}
}

// TestNexthopObjects, of contract 45: routes by nexthop objects count. Where the kernel hides their
// devices, this is a problem.
func TestNexthopObjects(t *testing.T) {
	n := netnstest.New(t)
	n.AddVeth("eth0", "10.0.0.1/24")
	for _, args := range []string{
		"nexthop add id 1 via 10.0.0.2 dev eth0", "nexthop add id 2 via 10.0.0.3 dev eth0",
		"nexthop add id 10 group 1/2", "route add default nhid 10",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", args, err, out)
		}
	}
	facts, err := readFacts(nil)
	must(t, err)
	for _, f := range facts.devices {
		if f.link.Attrs().Name == "eth0" && (!f.routes.isDefault || facts.untold) {
			t.Errorf("routes by eth0: %+v, some untold: %t", f.routes, facts.untold)
		}
	}
	must(t, os.WriteFile("/proc/sys/net/ipv4/nexthop_compat_mode", []byte("0"), 0))
	facts, err = readFacts(nil)
	must(t, err)
	problems := strings.Join(DeviceRules{}.problems(facts), "\n")
	if !strings.Contains(problems, "net.ipv4.nexthop_compat_mode is 0") {
		t.Errorf("with devices untold: problems %q", problems)
	}
}

// TestDeviceRulesOnNode, of contract 45: checks of the patterns that need the node's devices.
func TestDeviceRulesOnNode(t *testing.T) {
	n := netnstest.New(t)
	n.AddVeth("eth0")
	const both = "--devices eth* and --pod-devices *0: both name the device eth0"
	if err := rulesOf("eth*", "*0", "").CheckDevices(); err == nil || err.Error() != both {
		t.Errorf("got error %v, want %s", err, both)
	}
	for _, fine := range []DeviceRules{rulesOf("eth*", "*0", "eth0"), rulesOf("eth*", "cali*", ""), {}} {
		if err := fine.CheckDevices(); err != nil {
			t.Errorf("%+v: %v", fine, err)
		}
	}
	facts, err := readFacts(nil)
	must(t, err)
	want := []string{both, "--ignore-devices gone?: there is no such device", "--devices eth9: there is no such device"}
	if got := rulesOf("eth* eth9", "*0", "gone?").problems(facts); !slices.Equal(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
}
