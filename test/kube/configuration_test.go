// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/test/apiserver"
)

const configHead = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// TestConfigurationAsKubeProxy has kube-proxy and waggle read the same files: both take it, with the
// same defaults, or both refuse it.
//
// Contract: 38.
func TestConfigurationAsKubeProxy(t *testing.T) {
	kubeProxy := filepath.Join(apiserver.Binaries(t), "kube-proxy")
	kubeadm, err := os.ReadFile("../../control/config/testdata/kubeadm.yaml")
	check(t, err)
	for _, file := range []string{
		configHead, string(kubeadm),
		configHead + "mode: nftables", configHead + "mode: ipvs", configHead + "bindAddress: '::'", configHead + "bindAddress: fd00::1",
		configHead + "bindAddress: 10.0.0.1\nhealthzBindAddress: 10.0.0.1\nmetricsBindAddress: '::1'",
		configHead + "healthzBindAddress: '[::]:99'\nmetricsBindAddress: 10.0.0.1:98",
		configHead + "iptables: {masqueradeBit: 3, masqueradeAll: true, localhostNodePorts: false, syncPeriod: 5s, minSyncPeriod: 2s}",
		configHead + "mode: nftables\nnftables: {masqueradeBit: 3, masqueradeAll: true, syncPeriod: 5s, minSyncPeriod: 2s}",
		configHead + "mode: ipvs\nipvs: {syncPeriod: 5s, minSyncPeriod: 2s, scheduler: rr, excludeCIDRs: [10.0.0.0/8], strictARP: true, tcpTimeout: 1s}",
		configHead + "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s, udpTimeout: 3s, tcpBeLiberal: true}",
		configHead + "clientConnection: {qps: 7.5, burst: 15, contentType: application/json}\nconfigSyncPeriod: 1m\noomScoreAdj: 5",
		configHead + "clusterCIDR: 10.0.0.0/8,fd00::/8\nnodePortAddresses: [10.0.0.0/8]\nhostnameOverride: n",
		configHead + "logging: {verbosity: 4, flushFrequency: 1s}\nfeatureGates: {AllAlpha: false}",
		configHead + "nosuch: 1\nhostnameOverride: a\nhostnameOverride: b",
		"", "x", "apiVersion: v1\nkind: Pod\n", configHead + "hostnameOverride: [1]", configHead + "metricsBindAddress: here:1",
		configHead + "bindAddress: x", configHead + "mode: quantum", configHead + "nodePortAddresses: [all]",
		configHead + "clusterCIDR: here", configHead + "detectLocalMode: Guess", configHead + "iptables: {syncPeriod: -1s}",
		configHead + "mode: ipvs\nipvs: {tcpTimeout: -1s}", configHead + "oomScoreAdj: 2000", configHead + "conntrack: {min: -1}",
	} {
		theirs, refusal := readByKubeProxy(t, kubeProxy, file)
		ours, err := config.Parse([]byte(file))
		if (refusal == nil) != (err == nil) {
			t.Errorf("%s\nwaggle: %v\nkube-proxy: %v", file, err, refusal)
		}
		if refusal != nil || err != nil {
			continue
		}
		if diff := cmp.Diff(theirs, onLinux(ours.Effective)); diff != "" {
			t.Errorf("%s (-kube-proxy +waggle)\n%s", file, diff)
		}
	}
}

// readByKubeProxy returns what kube-proxy makes of a file. It writes zeros for blocks that its mode
// does not use, which have defaults again here.
func readByKubeProxy(t *testing.T, kubeProxy, contents string) (*v1alpha1.KubeProxyConfiguration, error) {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.yaml"), filepath.Join(dir, "out.yaml")
	check(t, os.WriteFile(in, []byte(contents), 0o600))
	if log, err := exec.Command(kubeProxy, "--config", in, "--write-config-to", out).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, log)
	}
	written, err := os.ReadFile(out)
	check(t, err)
	s, err := config.Parse(written)
	check(t, err)
	return s.Effective, nil
}

// onLinux sets what kube-proxy sets on Linux after all defaults.
func onLinux(c *v1alpha1.KubeProxyConfiguration) *v1alpha1.KubeProxyConfiguration {
	if c.Mode == "" {
		c.Mode = "iptables"
	}
	if c.DetectLocalMode == "" {
		c.DetectLocalMode = "ClusterCIDR"
	}
	if c.Mode == "nftables" && len(c.NodePortAddresses) == 0 {
		c.NodePortAddresses = []string{"primary"}
	}
	return c
}
