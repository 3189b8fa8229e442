// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// smallMaps are quicker to make than those of a real node.
const smallMaps = "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"

// startKubeProxies runs kube-proxy, the oracle, on all nodes, until stop, which leaves nothing of it.
func (s *setup) startKubeProxies(t *testing.T) (stop func()) {
	t.Helper()
	kubeconfig := s.kubeconfig(t, "kube-proxy", apiserver.KubeProxy)
	var sentinels []string
	for _, addr := range s.backends() {
		sentinels = append(sentinels, addr.String())
	}
	for _, svc := range services {
		sentinels = append(sentinels, svc.lb(false).Addr().String(), svc.lb(true).Addr().String())
	}
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

// startWaggle runs waggle on all nodes. It leads to all backends when startWaggle returns.
func (s *setup) startWaggle(t *testing.T) (stop func()) {
	t.Helper()
	binary, err := buildWaggle()
	check(t, err)
	opts := cluster.AgentOptions{
		Binary: binary, Kubeconfig: s.kubeconfig(t, "waggle", apiserver.Admin), Dir: s.dir,
		Args: append([]string{smallMaps, "--xdp=off"}, s.agent...),
	}
	if *xdp {
		opts.Args = append(opts.Args, "--xdp=always")
	}
	var agents []*cluster.Agent
	for _, node := range s.Nodes {
		a := cluster.NewAgent(s.Network, node, opts)
		t.Cleanup(func() {
			a.Kill()
			check(t, a.Cleanup())
		})
		check(t, a.Start())
		agents = append(agents, a)
	}
	for _, a := range agents {
		for name, svc := range services {
			check(t, a.AwaitEndpoints(name, func(all map[maps.Frontend][]netip.AddrPort) bool {
				return leadsTo(all, s.pods[svc.pod])
			}))
		}
	}
	return func() {
		t.Helper()
		for _, a := range agents {
			s.keepLog(t, a)
			check(t, a.Stop())
			check(t, a.Cleanup())
		}
	}
}

// leadsTo reports whether all frontends of a service, of both families, lead to a pod.
func leadsTo(all map[maps.Frontend][]netip.AddrPort, pod *topo.Pod) bool {
	reached := map[netip.Addr]bool{}
	for _, backends := range all {
		if len(backends) == 0 {
			return false
		}
		for _, b := range backends {
			reached[b.Addr()] = true
		}
	}
	return reached[pod.IP4] && reached[pod.IP6]
}

// logsVariable names an environment variable: a directory that what agents have to say is copied to.
const logsVariable = "WAGGLE_NEIGHBOURS_LOGS"

func (s *setup) keepLog(t *testing.T, a *cluster.Agent) {
	t.Helper()
	dir := os.Getenv(logsVariable)
	if dir == "" {
		return
	}
	log, err := os.ReadFile(a.LogFile)
	check(t, err)
	status, err := a.CLI("status")
	check(t, err)
	flows, err := a.CLI("flow", "list", "-o", "wide", "--limit", "0")
	check(t, err)
	text := slices.Concat(log, fmt.Appendf(nil, "\n%s\n%s\n", status, flows))
	check(t, os.WriteFile(filepath.Join(dir, s.name+"-"+a.Node.Name+".log"), text, 0o644))
}
