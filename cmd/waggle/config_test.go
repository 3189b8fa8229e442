// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/serve"
)

const configHead = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// configured is the agent's configuration by a file and flags. The datapath's options are others'.
func configured(t *testing.T, body string, args ...string) (agentFlags, control.Config) {
	t.Helper()
	return configuredBy(t, configHead+body, args...)
}

func configuredBy(t *testing.T, contents string, args ...string) (agentFlags, control.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	var f agentFlags
	cmd := &cobra.Command{Use: "agent"}
	f.add(cmd)
	if err := cmd.ParseFlags(append([]string{"--cgroup=none", "--config=" + file}, args...)); err != nil {
		t.Fatal(err)
	}
	if err := f.readFile(cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	cfg, err := f.config(&globals{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f, cfg
}

const everything = `
hostnameOverride: From-File
healthzBindAddress: 127.0.0.1:1
metricsBindAddress: 127.0.0.1:2
bindAddressHardFail: true
enableProfiling: true
nodePortAddresses: [10.0.0.0/8]
clusterCIDR: 10.1.0.0/16
iptables: {masqueradeAll: true, minSyncPeriod: 2s, syncPeriod: 3s}
logging: {verbosity: 5, format: json}
`

// Row 38: every field with a meaning gets to where it is used.
func TestConfigFile(t *testing.T) {
	f, cfg := configured(t, everything)
	nodePorts, _ := node.ParseNodePortAddresses([]string{"10.0.0.0/8"})
	want := control.Config{
		NodeName:      "from-file",
		NodePorts:     nodePorts,
		Serve:         serve.Config{Healthz: "127.0.0.1:1", Metrics: "127.0.0.1:2", HardFail: true, Profiling: true, MetricsServices: serve.DefaultMetricsServices},
		Pace:          control.Pace{MinSync: 2 * time.Second, Repair: 3 * time.Second},
		MasqueradeAll: true,
		LocalSources:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
	}
	expectConfig(t, want, cfg)
	if f.logLevel != "debug" || f.logFormat != "json" {
		t.Errorf("logs %s, %s", f.logLevel, f.logFormat)
	}
	shown := cfg.Serve.Configz
	if shown.HostnameOverride != "from-file" || shown.IPTables.MinSyncPeriod.Duration != 2*time.Second || shown.ClusterCIDR != "10.1.0.0/16" {
		t.Errorf("configz: %+v", shown)
	}
}

// A flag that is given wins.
func TestFlagsOverConfigFile(t *testing.T) {
	f, cfg := configured(t, everything, "--node-name=flag", "--healthz-bind-address=", "--metrics-bind-address=[::1]:3",
		"--bind-address-hard-fail=false", "--profiling=false", "--nodeport-addresses=all", "--cluster-cidr=10.2.0.0/16,fd00::/8",
		"--masquerade-all=false", "--min-sync-period=0s", "--sync-period=4s", "--log-level=warn", "--log-format=text")
	nodePorts, _ := node.ParseNodePortAddresses([]string{"all"})
	want := control.Config{
		NodeName:     "flag",
		NodePorts:    nodePorts,
		Serve:        serve.Config{Metrics: "[::1]:3", MetricsServices: serve.DefaultMetricsServices},
		Pace:         control.Pace{Repair: 4 * time.Second},
		LocalSources: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("fd00::/8")},
	}
	expectConfig(t, want, cfg)
	if f.logLevel != "warn" || f.logFormat != "text" {
		t.Errorf("logs %s, %s", f.logLevel, f.logFormat)
	}
	shown := cfg.Serve.Configz
	if shown.HealthzBindAddress != "" || shown.MetricsBindAddress != "[::1]:3" || shown.IPTables.MasqueradeAll ||
		shown.IPTables.SyncPeriod.Duration != 4*time.Second || shown.ClusterCIDR != "10.2.0.0/16,fd00::/8" {
		t.Errorf("configz: %+v", shown)
	}
}

// What a file leaves out is as without one, not as kube-proxy has it.
func TestEmptyConfigFile(t *testing.T) {
	_, cfg := configured(t, "hostnameOverride: node")
	want := control.Config{
		NodeName: "node", Pace: control.DefaultPace,
		Serve: serve.Config{Healthz: "0.0.0.0:10256", Metrics: "127.0.0.1:10249", MetricsServices: serve.DefaultMetricsServices},
	}
	expectConfig(t, want, cfg)
}

func TestConfigFileLocalDevices(t *testing.T) {
	for body, want := range map[string]control.Config{
		"detectLocalMode: NodeCIDR": {},
		"detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}": {Rules: node.DeviceRules{Pods: []string{"cali*"}}},
		"detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}":         {Rules: node.DeviceRules{Pods: []string{"cni0"}}},
	} {
		_, cfg := configured(t, body)
		if !cmp.Equal(cfg.Rules.Pods, want.Rules.Pods) {
			t.Errorf("%s: devices of pods %v", body, cfg.Rules.Pods)
		}
		_, cfg = configured(t, body, "--cluster-cidr=10.0.0.0/8")
		if cfg.Rules.Pods != nil || len(cfg.LocalSources) != 1 {
			t.Errorf("%s and a flag: %+v", body, cfg)
		}
		_, cfg = configured(t, body, "--pod-devices=veth*")
		if !cmp.Equal(cfg.Rules.Pods, []string{"veth*"}) {
			t.Errorf("%s and a flag: devices of pods %v", body, cfg.Rules.Pods)
		}
	}
}

func expectConfig(t *testing.T, want, got control.Config) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(control.Config{}, "Loader", "XDP", "Express", "Rules", "ReservePorts", "SourceName", "Version", "Warnings", "Conntrack"),
		cmpopts.IgnoreFields(serve.Config{}, "Configz"), cmp.AllowUnexported(node.NodePortAddresses{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// Row 38: what has no meaning here is named, once.
func TestConfigFileWarnings(t *testing.T) {
	_, cfg := configured(t, "portRange: 1-2\noomScoreAdj: 5\nconntrack: {min: 1, tcpBeLiberal: true}\nnosuch: 1\n")
	if err := cfg.Warnings["configuration"]; err == nil || !strings.Contains(err.Error(), "config.yaml: no meaning here, and ignored: oomScoreAdj, portRange") {
		t.Errorf("warning %v", err)
	}
	liberal := node.ConntrackParameter{From: "conntrack.tcpBeLiberal", Name: "nf_conntrack_tcp_be_liberal", Want: 1, Given: true}
	if !slices.Contains(cfg.Conntrack, liberal) {
		t.Errorf("the conntrack parameters are %v, want %v", cfg.Conntrack, liberal)
	}
	if err := cfg.Warnings["configuration file"]; err == nil || !strings.Contains(err.Error(), `unknown field "nosuch"`) {
		t.Errorf("warning %v", err)
	}
	_, cfg = configured(t, "clientConnection: {kubeconfig: /k}", "--manifests=.")
	if err := cfg.Warnings["configuration"]; err == nil || !strings.Contains(err.Error(), "clientConnection.kubeconfig") {
		t.Errorf("manifests are asked for, the file says kubeconfig: warning %v", err)
	}
	if _, cfg := configured(t, ""); len(cfg.Warnings) != 0 {
		t.Errorf("warnings %v", cfg.Warnings)
	}
}

// kubeadm's configuration of kube-proxy, put into waggle's ConfigMap as it is: the credentials that it
// names are not in waggle's pod. Feature gates of another version do not keep the agent from starting.
func TestConfigFileOfAnotherPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	raw, err := os.ReadFile("../../control/config/testdata/kubeadm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, cfg := configuredBy(t, string(raw)+"featureGates: {GateOfTheFuture: true, AllBeta: false}\n")
	if f.from.kubeconfig != "" {
		t.Errorf("credentials are read from %s", f.from.kubeconfig)
	}
	for about, want := range map[string]string{
		"kubeconfig":    "config.yaml: ignored: clientConnection.kubeconfig: there is no file /var/lib/kube-proxy/kubeconfig.conf here",
		"feature gates": "config.yaml: ignored: featureGates: GateOfTheFuture (not known)",
	} {
		if err := cfg.Warnings[about]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: warning %v, want %s", about, err, want)
		}
	}
	if len(cfg.Warnings) != 2 {
		t.Errorf("warnings %v", cfg.Warnings)
	}

	// A file that is there is used, and so is one that a flag names.
	there := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, cfg = configured(t, "clientConnection: {kubeconfig: "+there+"}")
	if f.from.kubeconfig != there || cfg.Warnings["kubeconfig"] != nil {
		t.Errorf("credentials are read from %q, warning %v", f.from.kubeconfig, cfg.Warnings["kubeconfig"])
	}
	if f, _ = configured(t, "clientConnection: {kubeconfig: /no/such}", "--kubeconfig=/flag"); f.from.kubeconfig != "/flag" {
		t.Errorf("credentials are read from %q", f.from.kubeconfig)
	}
	// Without a pod's credentials there are no others.
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if f, _ = configured(t, "clientConnection: {kubeconfig: /no/such}"); f.from.kubeconfig != "/no/such" {
		t.Errorf("credentials are read from %q", f.from.kubeconfig)
	}
}

// Each setting of a file either has its flag or is said to have no effect.
func TestConfigFileFlags(t *testing.T) {
	body := "clientConnection: {kubeconfig: /k, qps: 1, burst: 2}\nhostnameOverride: node\n"
	f, cfg := configured(t, body)
	cmd := newAgent(&globals{})
	for _, set := range fromFile(f.read) {
		has := cmd.Flags().Lookup(set.flag) != nil
		warned := cfg.Warnings["configuration"] != nil && strings.Contains(cfg.Warnings["configuration"].Error(), set.field)
		if has == warned {
			t.Errorf("%s: a flag --%s: %v, a warning: %v", set.field, set.flag, has, warned)
		}
	}
}

// Row 38: the error about a bad file names the field, and nothing is loaded.
func TestConfigFileErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	for body, want := range map[string]string{
		"metricsBindAddress: here": "MetricsBindAddress", "clusterCIDR: x": "ClusterCIDRs", "featureGates: {X: maybe}": "featureGates",
	} {
		if err := os.WriteFile(file, []byte(configHead+body), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := run(t, "agent", "--pin-dir=/no.such", "--run-dir="+t.TempDir(), "--config="+file)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: error %v", body, err)
		}
	}
}
