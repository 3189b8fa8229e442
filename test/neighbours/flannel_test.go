// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// startFlannel runs flanneld on all nodes, and waits until they know each other's pods.
func (s *setup) startFlannel(t *testing.T) {
	t.Helper()
	kubeconfig := s.kubeconfig(t, "flannel", apiserver.Admin)
	for _, node := range s.Nodes {
		log, err := os.Create(s.flannelLog(node))
		check(t, err)
		cmd := node.Command(filepath.Join(s.parts, "flanneld"), "-kubeconfig-file", kubeconfig,
			"-net-config-path", filepath.Join("networks", s.flannel), "-subnet-file", s.subnetFile(node), "-iface", "eth0")
		cmd.Env = append(os.Environ(), "NODE_NAME="+node.Name)
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Start()
		check(t, errors.Join(err, log.Close()))
	}
	for i, node := range s.Nodes {
		if err := s.awaitFlannel(node, s.Nodes[1-i]); err != nil {
			log, _ := os.ReadFile(s.flannelLog(node))
			t.Fatalf("flanneld: %v; its log:\n%s", err, log)
		}
	}
}

func (s *setup) flannelLog(node *topo.Node) string {
	return filepath.Join(s.dir, "flannel-"+node.Name+".log")
}

func (s *setup) subnetFile(node *topo.Node) string {
	return filepath.Join(s.dir, "flannel-"+node.Name+".env")
}

// awaitFlannel waits until flanneld has written the node's subnet, which it does last, and has a route
// to the other node's pods.
func (s *setup) awaitFlannel(node, peer *topo.Node) error {
	err := errors.New("not asked")
	for deadline := time.Now().Add(topo.Patient(time.Minute)); err != nil && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_, err = os.Stat(s.subnetFile(node))
		for _, pods := range []netip.Prefix{peer.PodCIDR4, peer.PodCIDR6} {
			err = errors.Join(err, hasRoute(node, pods))
		}
	}
	return err
}

// hasRoute reports whether a node has a route to exactly these addresses.
func hasRoute(node *topo.Node, to netip.Prefix) error {
	family := "-4"
	if to.Addr().Is6() {
		family = "-6"
	}
	out, err := node.Command("ip", family, "route", "show", "exact", to.String()).Output()
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s has no route to %s", node.Name, to)
	}
	return err
}

// podMTU is what flannel has found out, or else an Ethernet's.
func (s *setup) podMTU(node *topo.Node) (int, error) {
	if s.flannel == "" {
		return 1500, nil
	}
	file, err := os.Open(s.subnetFile(node))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "FLANNEL_MTU="); found {
			return strconv.Atoi(value)
		}
	}
	return 0, fmt.Errorf("%s: no FLANNEL_MTU", file.Name())
}
