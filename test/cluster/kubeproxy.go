// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

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

// KubeProxy is kube-proxy on a node, in nftables mode.
type KubeProxy struct {
	node    *topo.Node
	binary  string
	config  string
	logFile string
	cmd     *topo.Command
}

// NewKubeProxy prepares kube-proxy for a node; Start starts it. Its configuration and its log are in dir.
func NewKubeProxy(node *topo.Node, binary, kubeconfig, dir string) (*KubeProxy, error) {
	k := &KubeProxy{
		node:    node,
		binary:  binary,
		config:  filepath.Join(dir, "kube-proxy-"+node.Name+".yaml"),
		logFile: filepath.Join(dir, "kube-proxy-"+node.Name+".log"),
	}
	return k, os.WriteFile(k.config, fmt.Appendf(nil, kubeProxyConfig, node.Name, clusterCIDR, kubeconfig), 0o600)
}

// Start starts it without waiting for it; see AwaitRules.
func (k *KubeProxy) Start() error {
	log, err := os.Create(k.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	k.cmd = k.node.Command(k.binary, "--config", k.config, "--v=2")
	k.cmd.Stdout, k.cmd.Stderr = log, log
	return k.cmd.Start()
}

// AwaitRules waits until kube-proxy has made rules for addresses.
func (k *KubeProxy) AwaitRules(addresses []string) error {
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

// End ends it, if it runs, and leaves its rules.
func (k *KubeProxy) End() error {
	if k.cmd == nil {
		return nil
	}
	cmd := k.cmd
	k.cmd = nil
	var ended *exec.ExitError // it ends by the signal
	if err := cmd.Stop(20 * time.Second); err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("kube-proxy: %w", err)
	}
	return nil
}

// Stop ends it, and removes all that it left: its rules, and the connections that the kernel tracks.
func (k *KubeProxy) Stop() error {
	if err := k.End(); err != nil {
		return err
	}
	for _, args := range [][]string{{k.binary, "--cleanup"}, {"conntrack", "-F"}} {
		if out, err := k.node.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
