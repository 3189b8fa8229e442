// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func parse(t *testing.T, body string) *Settings {
	t.Helper()
	s, err := Parse([]byte(head + body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return s
}

// usual is what an empty file says.
func usual() *Settings {
	return &Settings{
		HealthzBindAddress: "0.0.0.0:10256", MetricsBindAddress: "127.0.0.1:10249",
		LogFormat: "text", FeatureGates: map[string]bool{},
	}
}

// Row 38: each field that has a meaning here.
func TestMapped(t *testing.T) {
	for _, c := range []struct {
		body string
		want func(*Settings)
	}{
		{"", func(*Settings) {}},
		{"hostnameOverride: node-7", func(s *Settings) { s.NodeName = "node-7" }},
		{"clientConnection: {kubeconfig: /etc/k, qps: 7.5, burst: 15}", func(s *Settings) { s.Kubeconfig, s.QPS, s.Burst = "/etc/k", 7.5, 15 }},
		{"healthzBindAddress: 10.0.0.1:99", func(s *Settings) { s.HealthzBindAddress = "10.0.0.1:99" }},
		{"healthzBindAddress: 10.0.0.1", func(s *Settings) { s.HealthzBindAddress = "10.0.0.1:10256" }},
		{"metricsBindAddress: 0.0.0.0:98", func(s *Settings) { s.MetricsBindAddress = "0.0.0.0:98" }},
		{`bindAddress: "::"`, func(s *Settings) {
			s.HealthzBindAddress, s.MetricsBindAddress = "[::]:10256", "[::1]:10249"
		}},
		{"bindAddressHardFail: true", func(s *Settings) { s.BindAddressHardFail = true }},
		{"enableProfiling: true", func(s *Settings) { s.EnableProfiling = true }},
		{"nodePortAddresses: [primary]", func(s *Settings) { s.NodePortAddresses = []string{"primary"} }},
		{`nodePortAddresses: [10.0.0.0/8, "fd00::/8"]`, func(s *Settings) { s.NodePortAddresses = []string{"10.0.0.0/8", "fd00::/8"} }},
		{"clusterCIDR: 10.1.2.3/16,fd00:1::/32", func(s *Settings) {
			s.LocalTraffic.Sources = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}
		}},
		{"detectLocalMode: NodeCIDR\nclusterCIDR: 10.1.0.0/16", func(s *Settings) { s.LocalTraffic.NodeCIDR = true }},
		{"detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}", func(s *Settings) { s.LocalTraffic.Devices = []string{"cni0"} }},
		{"detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: 've*'}", func(s *Settings) { s.LocalTraffic.Devices = []string{`ve\**`} }},
		{"iptables: {masqueradeAll: true, minSyncPeriod: 2s, syncPeriod: 3s}", func(s *Settings) {
			s.MasqueradeAll, s.MinSyncPeriod, s.SyncPeriod = true, 2*time.Second, 3*time.Second
		}},
		{"mode: nftables\nnftables: {masqueradeAll: true, minSyncPeriod: 2s, syncPeriod: 3s}", func(s *Settings) {
			s.MasqueradeAll, s.MinSyncPeriod, s.SyncPeriod = true, 2*time.Second, 3*time.Second
		}},
		{"mode: ipvs\nipvs: {minSyncPeriod: 2s, syncPeriod: 3s}\niptables: {masqueradeAll: true}", func(s *Settings) {
			s.MasqueradeAll, s.MinSyncPeriod, s.SyncPeriod = true, 2*time.Second, 3*time.Second
		}},
		{"logging: {verbosity: 2}", func(s *Settings) { s.LogLevel = "info" }},
		{"logging: {verbosity: 5}", func(s *Settings) { s.LogLevel = "debug" }},
		{"logging: {verbosity: 9, format: json}", func(s *Settings) { s.LogLevel, s.LogFormat = "trace", "json" }},
		{"featureGates: {AllAlpha: true}", func(s *Settings) { s.FeatureGates = map[string]bool{"AllAlpha": true} }},
	} {
		want := usual()
		c.want(want)
		expectSettings(t, c.body, want, parse(t, c.body))
	}
}

// What kubeadm writes into the ConfigMap of its clusters: all of it is understood.
func TestKubeadm(t *testing.T) {
	s, err := Load("testdata/kubeadm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := usual()
	want.Kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"
	want.LocalTraffic.Sources = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	expectSettings(t, "kubeadm", want, s)
}

func expectSettings(t *testing.T, name string, want, got *Settings) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Settings{}, "Effective", "Conntrack"), cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// Row 38: what has no meaning here is named, if it is set to something else than its default.
func TestIgnored(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"bindAddress: 10.0.0.1", "bindAddress"},
		{"clientConnection: {acceptContentTypes: a/b, contentType: c/d}", "clientConnection.acceptContentTypes clientConnection.contentType"},
		{"clientConnection: {contentType: application/vnd.kubernetes.protobuf}", ""},
		{"configSyncPeriod: 1m", "configSyncPeriod"},
		{"configSyncPeriod: 15m", ""},
		{"oomScoreAdj: -1", "oomScoreAdj"},
		{"oomScoreAdj: -999", ""},
		{"portRange: 1-2", "portRange"},
		{"conntrack: {maxPerCore: 1, min: 2, tcpBeLiberal: true}", ""}, // reported separately
		{"iptables: {masqueradeBit: 3, localhostNodePorts: false}", "iptables.localhostNodePorts iptables.masqueradeBit"},
		{"iptables: {masqueradeBit: 14, localhostNodePorts: true}", ""},
		{"nftables: {masqueradeBit: 3}", "nftables.masqueradeBit"},
		{"ipvs: {scheduler: rr, excludeCIDRs: [10.0.0.0/8], strictARP: true, tcpTimeout: 1s, tcpFinTimeout: 2s, udpTimeout: 3s}",
			"ipvs.excludeCIDRs ipvs.scheduler ipvs.strictARP ipvs.tcpFinTimeout ipvs.tcpTimeout ipvs.udpTimeout"},
		{"ipvs: {excludeCIDRs: []}", ""},
		{"nftables: {masqueradeAll: true, minSyncPeriod: 2s, syncPeriod: 3s}", "nftables.masqueradeAll nftables.minSyncPeriod nftables.syncPeriod"},
		{"mode: nftables\niptables: {masqueradeAll: true, minSyncPeriod: 2s, syncPeriod: 3s}", "iptables.masqueradeAll iptables.minSyncPeriod iptables.syncPeriod"},
		{"mode: ipvs\niptables: {minSyncPeriod: 2s}", "iptables.minSyncPeriod"},
		{"winkernel: {networkName: net, sourceVip: 10.0.0.1, enableDSR: true, rootHnsEndpointName: r, forwardHealthCheckVip: true}",
			"winkernel.enableDSR winkernel.forwardHealthCheckVip winkernel.networkName winkernel.rootHnsEndpointName winkernel.sourceVip"},
		{"windowsRunAsService: true", "windowsRunAsService"},
		{"logging: {flushFrequency: 1s}", "logging.flushFrequency"},
		{"logging: {vmodule: [{filePattern: a, verbosity: 3}]}", "logging.vmodule"},
	} {
		if got := strings.Join(parse(t, c.body).Ignored, " "); got != c.want {
			t.Errorf("%s: ignored %q, want %q", c.body, got, c.want)
		}
	}
}

// What kube-proxy would set of the kernel's connection tracking, with its defaults for what the file
// leaves out.
func TestConntrack(t *testing.T) {
	for _, c := range []struct {
		body string
		cpus int
		want string
	}{
		{"", 2, "nf_conntrack_max=131072 nf_conntrack_tcp_timeout_established=86400 nf_conntrack_tcp_timeout_close_wait=3600"},
		{"", 8, "nf_conntrack_max=262144 nf_conntrack_tcp_timeout_established=86400 nf_conntrack_tcp_timeout_close_wait=3600"},
		{"", 256, "nf_conntrack_max=1048576 nf_conntrack_tcp_timeout_established=86400 nf_conntrack_tcp_timeout_close_wait=3600"},
		{"conntrack: {maxPerCore: 0, min: 5, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}", 2, ""},
		{"conntrack: {maxPerCore: 10, min: 5, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 1m, tcpBeLiberal: true, udpTimeout: 30s, udpStreamTimeout: 2m}", 2,
			"nf_conntrack_max=20! nf_conntrack_tcp_timeout_close_wait=60! nf_conntrack_tcp_be_liberal=1! nf_conntrack_udp_timeout=30! nf_conntrack_udp_timeout_stream=120!"},
		{"conntrack: {min: 1000000, tcpEstablishedTimeout: 1h}", 2, "nf_conntrack_max=1000000! nf_conntrack_tcp_timeout_established=3600! nf_conntrack_tcp_timeout_close_wait=3600"},
	} {
		given, _, err := decode([]byte(head + c.body))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range conntrack(given, parse(t, c.body).Effective, c.cpus) {
			mark := ""
			if p.Given {
				mark = "!"
			}
			got = append(got, fmt.Sprintf("%s=%d%s", p.Parameter, p.Value, mark))
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s, %d CPUs: %s, want %s", c.body, c.cpus, got, c.want)
		}
	}
}

func TestLenient(t *testing.T) {
	s := parse(t, "nosuch: 1\nhostnameOverride: a\nhostnameOverride: b")
	if s.NodeName != "b" {
		t.Errorf("node name %q", s.NodeName)
	}
	if s.Lenient == nil || !strings.Contains(s.Lenient.Error(), `unknown field "nosuch"`) || !strings.Contains(s.Lenient.Error(), `"hostnameOverride" already set`) {
		t.Errorf("what strict decoding found: %v", s.Lenient)
	}
}

// A feature gate of another version of Kubernetes, and one that is locked here, are reported, and
// the others are set. Of two that depend on each other both are.
func TestFeatureGates(t *testing.T) {
	for _, c := range []struct {
		body     string
		accepted map[string]bool
		refused  map[string]string
	}{
		{"{AllAlpha: false}", map[string]bool{"AllAlpha": false}, nil},
		{"{NoSuchGate: true, AllBeta: true}", map[string]bool{"AllBeta": true}, map[string]string{"NoSuchGate": "not known"}},
		{"{AnyVolumeDataSource: false}", nil, map[string]string{"AnyVolumeDataSource": "locked to true"}},
		{"{AnyVolumeDataSource: true}", map[string]bool{"AnyVolumeDataSource": true}, nil},
		{"{GangScheduling: true, GenericWorkload: true}", map[string]bool{"GangScheduling": true, "GenericWorkload": true}, nil},
		{"{GangScheduling: true}", nil, map[string]string{"GangScheduling": "depends on"}},
	} {
		s := parse(t, "featureGates: "+c.body)
		if diff := cmp.Diff(c.accepted, s.FeatureGates, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.body, diff)
		}
		if diff := cmp.Diff(s.FeatureGates, s.Effective.FeatureGates); diff != "" {
			t.Errorf("%s: the effective configuration differs:\n%s", c.body, diff)
		}
		if len(s.RefusedGates) != len(c.refused) {
			t.Errorf("%s: refused are %v", c.body, s.RefusedGates)
		}
		for gate, why := range c.refused {
			if err := s.RefusedGates[gate]; err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %s is refused for %v, want %s", c.body, gate, err, why)
			}
		}
	}
}

// A bad file's error names the file and the field.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ contents, want string }{
		{"", "Kind' is missing"},
		{"x", "cannot unmarshal"},
		{"apiVersion: v1\nkind: Pod\n", `no kind "Pod"`},
		{"apiVersion: kubeproxy.config.k8s.io/v1beta7\nkind: KubeProxyConfiguration\n", "v1beta7"},
		{head + "hostnameOverride: [1]", "hostnameOverride"},
		{head + "metricsBindAddress: here:1", `MetricsBindAddress: Invalid value: "here"`},
		{head + "healthzBindAddress: 1.2.3.4:70000", `HealthzBindAddress: Invalid value: "70000"`},
		{head + "bindAddress: x", "BindAddress"},
		{head + "mode: quantum", `ProxyMode: Invalid value: "quantum"`},
		{head + "nodePortAddresses: [all]", `NodePortAddresses[0]: Invalid value: "all"`},
		{head + "nodePortAddresses: [primary, 10.0.0.0/8]", "can't use both"},
		{head + "clusterCIDR: here", "ClusterCIDRs"},
		{head + "clusterCIDR: 010.1.0.0/16", "clusterCIDR"},
		{head + "detectLocalMode: Guess", `Unsupported value: "Guess"`},
		{head + "detectLocalMode: BridgeInterface", "InterfaceName"},
		{head + "detectLocalMode: InterfaceNamePrefix", "InterfacePrefix"},
		{head + "iptables: {minSyncPeriod: 2s, syncPeriod: 1s}", "SyncPeriod: Invalid value"},
		{head + "iptables: {syncPeriod: -1s}", "SyncPeriod: Invalid value"},
		{head + "iptables: {syncPeriod: soon}", "soon"},
		{head + "clientConnection: {burst: -1}", "ClientConnection.Burst"},
		{head + "featureGates: {AllAlpha: maybe}", "featureGates"},
		{head + "logging: {format: xml}", "logging.format"},
		{head + "showHiddenMetricsForVersion: 'x'", "ShowHiddenMetricsForVersion"},
		{head + "oomScoreAdj: 2000", "OOMScoreAdj"},
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(c.contents), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--config "+file) {
			t.Errorf("%s: error %v\nwant %s", c.contents, err, c.want)
		}
	}
	if _, err := Load("/no/such"); err == nil || !strings.Contains(err.Error(), "--config: open /no/such") {
		t.Errorf("no file: error %v", err)
	}
}
