// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// The pods of all nodes, by which a proxy knows what is off-cluster.
const clusterCIDR = "10.244.0.0/16,fd00:10:244::/48"

// kube-proxy must leave alone what only the first network namespace may set.
const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
clusterCIDR: %s
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// kubeProxy is the oracle on one node.
type kubeProxy struct {
	node    *topo.Node
	binary  string
	config  string
	logFile string
	cmd     *topo.Command
}

// startKubeProxies runs kube-proxy on all nodes, until stop, which leaves
// nothing of them: no rules, and no connections that the kernel tracks.
func (s *setup) startKubeProxies(t *testing.T, sentinels ...string) (stop func()) {
	t.Helper()
	kubeconfig := s.kubeconfig(t, "kube-proxy", apiserver.KubeProxy)
	var all []*kubeProxy
	for _, node := range s.Nodes {
		k := &kubeProxy{
			node:    node,
			binary:  filepath.Join(s.binaries, "kube-proxy"),
			config:  filepath.Join(s.dir, "kube-proxy-"+node.Name+".yaml"),
			logFile: filepath.Join(s.dir, "kube-proxy-"+node.Name+".log"),
		}
		check(t, os.WriteFile(k.config, fmt.Appendf(nil, kubeProxyConfig, node.Name, clusterCIDR, kubeconfig), 0o600))
		check(t, k.start())
		all = append(all, k)
	}
	for _, k := range all {
		check(t, k.awaitRules(sentinels))
	}
	return func() {
		t.Helper()
		for _, k := range all {
			check(t, k.stop())
		}
	}
}

func (k *kubeProxy) start() error {
	log, err := os.Create(k.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	k.cmd = k.node.Command(k.binary, "--config", k.config, "--v=2")
	k.cmd.Stdout, k.cmd.Stderr = log, log
	return k.cmd.Start()
}

// awaitRules waits until kube-proxy has made rules for addresses.
func (k *kubeProxy) awaitRules(addresses []string) error {
	var rules []byte
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if rules, err = k.node.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, rules)
		}
		missing := 0
		for _, a := range addresses {
			if !strings.Contains(string(rules), a) {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
	}
	log, _ := os.ReadFile(k.logFile)
	return fmt.Errorf("kube-proxy on %s makes no rules for %v: it made:\n%s\nits log:\n%s", k.node.Name, addresses, rules, log)
}

func (k *kubeProxy) stop() error {
	var ended *exec.ExitError // it ends by the signal
	if err := k.cmd.Stop(20 * time.Second); err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("kube-proxy: %w", err)
	}
	for _, args := range [][]string{{k.binary, "--cleanup"}, {"conntrack", "-F"}} {
		if out, err := k.node.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
