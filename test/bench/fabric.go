// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/bench/memapi"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// fabric is a network whose nodes have a proxy each, all with the same objects.
type fabric struct {
	*topo.Network
	options
	store *memapi.Store
	own   map[*topo.Node]*memapi.Store // of nodes that have other objects than the rest
	dir   string
	run   string // of agents, in memory as /run is on a node
	close []func() error
}

func newFabric(o options, nodes int) (*fabric, error) {
	dir, err := os.MkdirTemp("", "waggle-bench-")
	if err != nil {
		return nil, err
	}
	f := &fabric{options: o, store: memapi.NewStore(), dir: dir}
	f.close = append(f.close, func() error { return os.RemoveAll(dir) })
	if f.run, err = os.MkdirTemp("/dev/shm", "waggle-bench-"); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.close = append(f.close, func() error { return os.RemoveAll(f.run) })
	if f.waggle, err = filepath.Abs(o.waggle); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := os.Stat(f.waggle); err != nil {
		if f.waggle, err = cluster.Build(dir); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := topo.MountBPFFS(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if f.Network, err = topo.New(topo.Options{Nodes: nodes}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.close = append(f.close, f.Network.Close)
	for _, node := range f.Nodes {
		f.store.Put(apiserver.NodeOf(node, ""))
	}
	return f, nil
}

// Close undoes everything, the last step first.
func (f *fabric) Close() error {
	var errs []error
	for i := len(f.close) - 1; i >= 0; i-- {
		errs = append(errs, f.close[i]())
	}
	f.close = nil
	return errors.Join(errs...)
}

const apiAddress = "127.0.0.1:6443"

// kubeconfig serves the objects inside a node, and returns the kubeconfig for them.
func (f *fabric) kubeconfig(node *topo.Node) (string, error) {
	var l net.Listener
	err := node.Do(func() (err error) {
		l, err = net.Listen("tcp", apiAddress)
		return err
	})
	if err != nil {
		return "", err
	}
	f.close = append(f.close, l.Close)
	store := f.store
	if own := f.own[node]; own != nil {
		store = own
	}
	go func() { _ = store.Serve(l) }() // ends with the listener
	file := filepath.Join(f.dir, node.Name+".kubeconfig")
	return file, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, apiAddress), 0o600)
}

// startWaggle runs an agent on a node until Close.
func (f *fabric) startWaggle(node *topo.Node, args ...string) (*cluster.Agent, error) {
	return f.startBuild("", node, args...)
}

// startBuild runs an agent of a build of the command; "" is the measured one.
func (f *fabric) startBuild(build string, node *topo.Node, args ...string) (*cluster.Agent, error) {
	kubeconfig, err := f.kubeconfig(node)
	if err != nil {
		return nil, err
	}
	binary := f.waggle
	if build != "" {
		if binary, err = filepath.Abs(build); err != nil {
			return nil, err
		}
	}
	a := cluster.NewAgent(f.Network, node, cluster.AgentOptions{Binary: binary, Kubeconfig: kubeconfig, Dir: f.run,
		Args: append([]string{"--log-level=warn"}, args...)})
	f.close = append(f.close, func() error {
		a.Kill()
		return a.Cleanup()
	})
	return a, a.Start()
}

// It leaves alone what can be set only in the first network namespace.
const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: %s
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// kubeProxy is kube-proxy on a node.
type kubeProxy struct {
	node *topo.Node
	cmd  *topo.Command
}

// havePeers reports whether kube-proxy can be measured.
func (o options) havePeers() bool {
	_, err := os.Stat(filepath.Join(o.peers, "kube-proxy"))
	return err == nil
}

// startKubeProxy runs kube-proxy on a node until Close. It may not have synced when the call
// returns.
func (f *fabric) startKubeProxy(node *topo.Node, mode string) (*kubeProxy, error) {
	kubeconfig, err := f.kubeconfig(node)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(f.dir, node.Name+"-kube-proxy.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, kubeProxyConfig, mode, node.Name, kubeconfig), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(f.dir, node.Name+"-kube-proxy.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	binary, err := filepath.Abs(filepath.Join(f.peers, "kube-proxy"))
	if err != nil {
		return nil, err
	}
	k := &kubeProxy{node: node, cmd: node.Command(binary, "--config", config)}
	k.cmd.Stdout, k.cmd.Stderr = log, log
	f.close = append(f.close, func() error {
		_ = k.cmd.Stop(10 * time.Second) // its rules are removed with the namespace
		return nil
	})
	return k, k.cmd.Start()
}

// metric returns the sum of a metric of kube-proxy's over all labels.
func (k *kubeProxy) metric(name string) (float64, error) {
	client := http.Client{Transport: &http.Transport{DialContext: k.node.DialContext, DisableKeepAlives: true}, Timeout: time.Minute}
	response, err := client.Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, m := range regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+`(?:\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(string(raw), -1) {
		value, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, err
		}
		sum += value
	}
	return sum, nil
}

// firstSync waits until kube-proxy has synced each family.
func (k *kubeProxy) firstSync() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return await(ctx, "its first sync", 20*time.Millisecond, func() (bool, error) {
		syncs, err := k.metric("kubeproxy_sync_proxy_rules_duration_seconds_count")
		return syncs >= 2, err
	})
}

// usage is what a process has used so far: processor time, and its greatest and its present
// resident memory in bytes.
type usage struct {
	cpu       time.Duration
	peak, rss float64
}

func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, i := range []int{11, 12, 13, 14} { // its own and that of nft and iptables, which kube-proxy runs
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, err
		}
		ticks += n
	}
	u.cpu = time.Duration(ticks) * time.Second / 100 // USER_HZ
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes float64
		if _, err := fmt.Sscanf(line, "VmHWM: %f", &kilobytes); err == nil {
			u.peak = kilobytes * 1024
		}
		if _, err := fmt.Sscanf(line, "VmRSS: %f", &kilobytes); err == nil {
			u.rss = kilobytes * 1024
		}
	}
	return u, nil
}

// await polls until done returns true, at the latest until ctx is done.
func await(ctx context.Context, what string, every time.Duration, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no sign of %s", what), err)
		case <-time.After(every):
		}
	}
}

// fill puts count services into the store, from number first on.
func (f *fabric) fill(first, count, endpoints int, protocol corev1.Protocol) {
	f.store.Put(fillers(first, count, endpoints, protocol)...)
}

// fillers are count services with endpoints that do not exist, from number first on.
func fillers(first, count, endpoints int, protocol corev1.Protocol) (objects []memapi.Object) {
	for i := first; i < first+count; i++ {
		objects = append(objects, serviceObject(i, protocol), sliceObject(i, protocol, "elsewhere", fillerEndpoints(i, endpoints)...))
	}
	return objects
}
