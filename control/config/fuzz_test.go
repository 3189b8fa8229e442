// SPDX-License-Identifier: Apache-2.0

package config

import "testing"

// FuzzParse: a file is refused with a reason, or read to settings that make sense together.
func FuzzParse(f *testing.F) {
	const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
	for _, seed := range []string{
		head, head + "mode: nftables\nnftables: {minSyncPeriod: 1s, syncPeriod: 30s, masqueradeAll: true}\n",
		head + "clusterCIDR: 10.0.0.0/8,fd00::/8\ndetectLocalMode: ClusterCIDR\nnodePortAddresses: [primary]\n",
		head + "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: \"cni*\"}\nhostnameOverride: n\n",
		head + "healthzBindAddress: \"[::]:0\"\nmetricsBindAddress: \"\"\nfeatureGates: {x: true}\nlogging: {format: json, verbosity: 9}\n",
		head + "mode: ipvs\nipvs: {syncPeriod: -1s}\nconntrack: {maxPerCore: null}\nunknown: 1\nmode: iptables\n",
		"kind: KubeProxyConfiguration", "{}", "", "\x00", "- 1", `{"apiVersion":"v1","kind":"Pod"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		if (s == nil) == (err == nil) {
			t.Fatalf("settings %v and error %v", s, err)
		}
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		if s.Effective == nil {
			t.Error("no effective configuration")
		}
		for _, p := range s.LocalTraffic.Sources {
			if !p.IsValid() || p != p.Masked() {
				t.Errorf("local traffic from %s", p)
			}
		}
		if s.MinSyncPeriod < 0 || s.SyncPeriod < 0 {
			t.Errorf("sync periods %v, %v", s.MinSyncPeriod, s.SyncPeriod)
		}
	})
}
