// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/loader"
)

// run runs the command as main does.
func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), err
}

// The error about a bad flag names the flag, and nothing is loaded. The loader refuses the pin
// directory of this test, in case a mistake gets past the checks.
func TestAgentFlagErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, c := range []struct{ flag, want string }{
		{"", "give --manifests or --kubeconfig: this is not a pod of a cluster"},
		{"--manifests=. --kubeconfig=x", "--manifests and --kubeconfig: "},
		{"--manifests=. --api-server=a:1", "--manifests and --api-server: "},
		{"--kubeconfig=/no/such", "load kubeconfig (--kubeconfig): stat /no/such: no such file or directory"},
		{"--kubeconfig=x --api-server=a:1,b", `--api-server: "b" is neither host:port nor an https URL`},
		{"--manifests=. --service-proxy-name=a/b", `--service-proxy-name: "a/b" is not a valid label value`},
		{"--kubeconfig=x --dns=10.96.0.10", "--dns: only with --manifests: in a cluster its own DNS (CoreDNS) answers for the names of Services"},
		{"--manifests=. --dns=10.96.0", `--dns: "10.96.0" is not an address that a Service can have`},
		{"--manifests=. --dns=127.0.0.1", `--dns: "127.0.0.1" is not an address that a Service can have`},
		{"--manifests=. --dns=fe80::1%eth0", `--dns: "fe80::1%eth0" is not an address that a Service can have`},
		{"--manifests=. --dns=10.96.0.10,10.96.0.11", "--dns: 10.96.0.10 and 10.96.0.11 are of the same family"},
		{"--manifests=. --dns=10.96.0.10 --dns-domain=a_b", `--dns-domain: "a_b" is not a domain`},
		{"--manifests=. --load-balancer-class=a/b/c", `--load-balancer-class: "a/b/c" is not a valid class`},
		{"--manifests=. --peers=a:0", `--peers: "a:0": "0" is not a port`},
		{"--manifests=. --peers=a/b", `--peers: "a/b" is neither a host nor host:port`},
		{"--manifests=. --peers=a", "--peers: --members-key-file is not given"},
		{"--kubeconfig=x --members-key-file=x", "--members-key-file: --load-balancer-pools is not given"},
		{"--manifests=. --members-key-file=/no/such", "--members-key-file: open /no/such"},
		{"--manifests=. --members-address=0.0.0.0", `--members-address: "0.0.0.0" is not an IP address of this node`},
		{"--manifests=. --members-key-file=x --members-port=0", "--members-port 0: not a port"},
		{"--log-level=loud", "--log-level loud: one of panic, fatal, error, warn, info, debug, trace"},
		{"--log-format=xml", "--log-format xml: one of text, json"},
		{"--xdp=maybe", "--xdp maybe: one of auto, off, always"},
		{"--socket-lb=pods", "--socket-lb pods: one of all, host"},
		{"--express=on", "--express on: one of auto, off"},
		{"--express=off --xdp=always", "--xdp always and --express off: "},
		{"--deletion-brake=1.5", "--deletion-brake 1.5: want a fraction from 0 to 1"},
		{"--deletion-brake=-0.1", "--deletion-brake -0.1: want a fraction from 0 to 1"},
		{"--deletion-brake=half", `"--deletion-brake"`},
		{"--devices=[x", `--devices: bad pattern "[x"`},
		{"--pod-devices=eth0,[x", `--pod-devices: bad pattern "[x"`},
		{"--ignore-devices=[x", `--ignore-devices: bad pattern "[x"`},
		{"--devices=eth* --pod-devices=eth0", "--devices eth* and --pod-devices eth0: both name the same devices"},
		{"--devices=eth0 --ignore-devices=e*", "--ignore-devices e* and --devices eth0: both name the same devices"},
		{"--manifests=. --devices=l? --pod-devices=?o", "--devices l? and --pod-devices ?o: both name the device lo"},
		{"--nodeport-addresses=10.0.0.1", `--nodeport-addresses: "10.0.0.1" is neither a CIDR, nor "primary", nor "all"`},
		{"--nodeport-range=1000", `--nodeport-range: "1000" is not a range of ports such as 30000-32767`},
		{"--snat-ports=9-1", `--snat-ports: "9-1" is not a range of ports such as 30000-32767`},
		{"--snat-ports=32767-40000", "--snat-ports 32767-40000 and --nodeport-range 30000-32767 overlap"},
		{"--map-size=flows4", "--map-size flows4: want name=elements"},
		{"--map-size=flows4=0", "--map-size flows4=0: want name=elements"},
		{"--map-size=flows4=many", "--map-size flows4=many: want name=elements"},
		{"--map-size==5", `--map-size =5: there is no map ""`},
		{"--map-size=flows4=5,flow5=6", `--map-size flow5=6: there is no map "flow5"`},
		{"--cgroup=/no/such", "--cgroup /no/such: there is no such directory"},
		{"--service-cidrs=10.96.0.0", `--service-cidrs: "10.96.0.0" is not a network address and its length`},
		{"--service-cidrs=10.96.0.1/16", `--service-cidrs: "10.96.0.1/16" is not a network address and its length`},
		{"--service-cidrs=::ffff:10.96.0.0/112", `--service-cidrs: "::ffff:10.96.0.0/112" is not a network address and its length`},
		{"--config=/no/such", "--config: open /no/such"},
		{"--healthz-bind-address=10256", "--healthz-bind-address 10256: want IP:port"},
		{"--metrics-services=-1", "--metrics-services -1: want a number"},
		{"--metrics-backends=-1", "--metrics-backends -1: want a number"},
		{"--metrics-bind-address=here:1", `--metrics-bind-address here:1: "here" is not an IP address`},
		{"--metrics-bind-address=127.0.0.1:0", `--metrics-bind-address 127.0.0.1:0: "0" is not a port`},
		{"--probe-bind-address=localhost:1", `--probe-bind-address localhost:1: "localhost" is not an IP address`},
		{"--sync-period=-1s", "--sync-period -1s: must be more than 0"},
		{"--min-sync-period=2m", "--min-sync-period 2m0s: must be from 0 to --sync-period, 1m0s"},
		{"--cluster-cidr=10.0.0.1", `--cluster-cidr: "10.0.0.1" is not a network address and its length`},
		{"--nosuch", "--nosuch"},
	} {
		args := []string{"agent", "--pin-dir=/no.such", "--run-dir=" + t.TempDir()}
		if c.flag != "" {
			args = append(args, strings.Fields(c.flag)...)
		}
		if strings.HasPrefix(c.flag, "--service-cidrs") {
			args = append(args, "--manifests=.")
		}
		out, err := run(t, args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v\nwant %s", c.flag, err, c.want)
		}
		if out != "" {
			t.Errorf("%s: besides the error it says %q", c.flag, out)
		}
	}
}

func TestOutputFormatErrors(t *testing.T) {
	for _, command := range []string{"service list", "service get x", "backend list", "flow list", "status"} {
		_, err := run(t, append(strings.Fields(command), "-o", "xml", "--pin-dir=/no.such", "--run-dir="+t.TempDir())...)
		if want := "-o xml: unknown format; one of table, wide, json, yaml"; err == nil || err.Error() != want {
			t.Errorf("%s: got error %v", command, err)
		}
	}
}

func TestArgumentErrors(t *testing.T) {
	for _, command := range []string{"service list x", "service get", "service get a b", "service frobnicate", "frobnicate", "agent x", "status x", "cleanup x", "cleanup --snat-ports=1-2"} {
		if _, err := run(t, append(strings.Fields(command), "--pin-dir=/no.such", "--run-dir="+t.TempDir())...); err == nil {
			t.Errorf("%s: no error", command)
		}
	}
}

func TestNodeName(t *testing.T) {
	for given, want := range map[string]string{"Node-A": "node-a", " node-b ": "node-b"} {
		f := agentFlags{nodeName: given, xdp: "auto", express: "auto", socketLB: "all", nodePortRange: "1-2", snatPorts: "3-4", cgroup: "none"}
		cfg, err := f.config(&globals{}, nil)
		if err != nil || cfg.NodeName != want {
			t.Errorf("%q: got %q, error %v", given, cfg.NodeName, err)
		}
	}
	f := agentFlags{xdp: "auto", express: "auto", socketLB: "all", nodePortRange: "1-2", snatPorts: "3-4", cgroup: "none"}
	if cfg, err := f.config(&globals{}, nil); err != nil || cfg.NodeName == "" || cfg.NodeName != strings.ToLower(cfg.NodeName) {
		t.Errorf("the host's: got %q, error %v", cfg.NodeName, err)
	}
}

func TestVersion(t *testing.T) {
	out, err := run(t, "version")
	if err != nil || !strings.HasPrefix(out, "waggle "+version+" go") {
		t.Errorf("got %q, error %v", out, err)
	}
}

// There is an error for a container that sees only its own cgroup.
func TestFoundCgroup(t *testing.T) {
	root, err := loader.CgroupRoot()
	if err != nil {
		t.Skip(err)
	}
	if !loader.IsCgroupRoot(root) {
		t.Skipf("%s is not the root: the test runs in a container", root)
	}
	if err := checkFoundCgroup(root); err != nil {
		t.Errorf("of the root: %v", err)
	}
	own := filepath.Join(root, fmt.Sprintf("waggle-flags-test-%d", os.Getpid()))
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.Remove(own) })
	if err := checkFoundCgroup(own); err == nil || !strings.Contains(err.Error(), own+" is not the root") {
		t.Errorf("of a container's: %v", err)
	}
}
