// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// startSidecars gives pods what Istio gives them: rules that redirect connections, and a sidecar.
func startSidecars(t *testing.T, s *setup) {
	t.Helper()
	for _, name := range []string{local, remote, sockets, packets} {
		pod := s.pods[name]
		for extension, loader := range map[string][]string{".v4": loaders[".v4"], ".v6": loaders[".v6"]} {
			check(t, load(pod.Host, nil, append(loader[:len(loader):len(loader)], filepath.Join("rules", "istio"+extension))...))
		}
		check(t, pod.AddAddr("lo", topo.Single(sidecarSource6)))
		startSidecar(t, pod.Host)
	}
}

// startSidecar runs this binary as a pod's sidecar, which listens when startSidecar returns.
func startSidecar(t *testing.T, pod *topo.Host) {
	t.Helper()
	cmd := pod.Command("/proc/self/exe")
	cmd.Args[0] = "waggle-neighbours-sidecar"
	cmd.Env = append(os.Environ(), sidecarVariable+"="+registry())
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: sidecarUser, Gid: sidecarUser}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("sidecar of %s: %q, %v", pod.Name, line, err)
	}
}

// registry is what a mesh knows: all addresses of services.
func registry() string {
	var out []string
	for _, svc := range services {
		for _, v6 := range []bool{false, true} {
			out = append(out, svc.clusterIP(v6).String())
		}
	}
	return strings.Join(out, ",")
}

func parseRegistry(text string) (map[netip.AddrPort]bool, error) {
	out := map[netip.AddrPort]bool{}
	for word := range strings.SplitSeq(text, ",") {
		addr, err := netip.ParseAddrPort(word)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sidecarVariable, err)
		}
		out[addr] = true
	}
	return out, nil
}

// ready signals to the parent that a sidecar listens.
func ready() error {
	_, err := io.WriteString(os.Stdout, "ready\n")
	return err
}
