// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
)

// startKubeProxies runs kube-proxy, the oracle, on all nodes, until stop, which leaves
// nothing of them: no rules, and no connections that the kernel tracks.
func (s *setup) startKubeProxies(t *testing.T, sentinels ...string) (stop func()) {
	t.Helper()
	kubeconfig := s.kubeconfig(t, "kube-proxy", apiserver.KubeProxy)
	var all []*cluster.KubeProxy
	for _, node := range s.Nodes {
		k, err := cluster.NewKubeProxy(node, filepath.Join(s.binaries, "kube-proxy"), kubeconfig, s.dir)
		check(t, err)
		check(t, k.Start())
		all = append(all, k)
	}
	for _, k := range all {
		check(t, k.AwaitRules(sentinels))
	}
	return func() {
		t.Helper()
		for _, k := range all {
			check(t, k.Stop())
		}
	}
}
