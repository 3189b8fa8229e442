// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var l2Advertisements = schema.GroupVersionResource{Group: "metallb.io", Version: "v1beta1", Resource: "l2advertisements"}

// holder is the node that announces an address, as an agent knows it, and why.
func holder(t *testing.T, a *cluster.Agent, addr string) (node, why string) {
	t.Helper()
	st, err := status.Read(a.RunDir)
	check(t, err)
	for _, at := range st.Addresses {
		if at.Address == addr && at.Announced != nil {
			return at.Announced.Holder, at.Announced.Why
		}
	}
	return "", ""
}

// awaitHolder waits until all agents say that a node announces an address.
func (s *setup) awaitHolder(t *testing.T, agents []*cluster.Agent, addr, node string) {
	t.Helper()
	began := time.Now()
	s.await(t, fmt.Sprintf("%s to be announced by %q", addr, node), func() bool {
		for _, a := range agents {
			if got, _ := holder(t, a, addr); got != node {
				return false
			}
		}
		return true
	})
	t.Logf("%s is announced by %q, as all know after %v", addr, node, time.Since(began).Round(time.Millisecond))
}

func (s *setup) patchNode(t *testing.T, name, patch string) {
	t.Helper()
	_, err := s.cp.Client().CoreV1().Nodes().Patch(s.ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	check(t, err)
}

// TestAddressesAnnounced: agents with the rights of deploy/ find each other by its Service, and announce an address of a pool
// from one node, which is neither cordoned nor excluded, while nothing else announces, and while the API server is away.
func TestAddressesAnnounced(t *testing.T) {
	s := newSetup(t)
	key := filepath.Join(s.dir, "key")
	check(t, os.WriteFile(key, []byte("a secret of these tests"), 0o600))
	agents := s.newAgents(t, "--load-balancer-pools", "--members-key-file="+key)
	s.deploy(t, "addresses.yaml")
	s.namespace(t, metallbNamespace)
	s.install(t, metallbCRDs)
	for i, node := range s.Nodes {
		s.addPod(t, i, fmt.Sprint("web-", i), map[string]string{"app": "web"})
		pod := apiserver.BoundPod("waggle-"+node.Name, node.Name, map[string]string{"app.kubernetes.io/name": "waggle"}, node.IP4, node.IP6)
		pod.Namespace, pod.Spec.HostNetwork = metav1.NamespaceSystem, true
		check(t, s.cp.CreatePod(s.ctx, pod))
	}
	s.pool(t, "lan", "192.168.1.240/32")
	const addr = "192.168.1.240"
	s.createBalancer(t, balancer("web"))
	for _, a := range agents {
		check(t, a.Start())
	}
	s.awaitAddresses(t, "web", addr)
	time.Sleep(2 * time.Second)
	for _, a := range agents {
		if node, why := holder(t, a, addr); node != "" {
			t.Errorf("without a document %s is announced by %s: %s", addr, node, why)
		}
	}
	_, err := s.dynamic(t).Resource(l2Advertisements).Namespace(metallbNamespace).Create(s.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": map[string]any{"name": "lan", "namespace": metallbNamespace},
	}}, metav1.CreateOptions{})
	check(t, err)
	first := ""
	s.await(t, "a node to announce it", func() bool { first, _ = holder(t, agents[0], addr); return first != "" })
	s.awaitHolder(t, agents, addr, first)
	one, other := agents[0], agents[1]
	if first != one.Node.Name {
		one, other = other, one
	}
	laptop := client(t, s.Laptop)
	served := func() {
		t.Helper()
		s.await(t, addr+" to be served", func() bool {
			return laptop.Get(topo.Request{To: netip.AddrPortFrom(netip.MustParseAddr(addr), servicePort)}).OK()
		})
	}
	served()

	s.patchNode(t, first, `{"spec":{"unschedulable":true}}`)
	s.awaitHolder(t, agents, addr, other.Node.Name)
	served()
	s.patchNode(t, other.Node.Name, `{"spec":{"unschedulable":true}}`) // of two that are cordoned one announces
	s.awaitHolder(t, agents, addr, first)
	s.patchNode(t, first, `{"spec":{"unschedulable":null}}`)
	s.patchNode(t, other.Node.Name, `{"spec":{"unschedulable":null}}`)
	s.awaitHolder(t, agents, addr, first)

	s.patchNode(t, first, `{"metadata":{"labels":{"`+corev1.LabelNodeExcludeBalancers+`":""}}}`)
	s.awaitHolder(t, agents, addr, other.Node.Name)
	if _, why := holder(t, one, addr); !strings.Contains(why, "the only node that can ("+first+": excluded by its label)") {
		t.Errorf("why: %s", why)
	}
	s.patchNode(t, first, `{"metadata":{"labels":{"`+corev1.LabelNodeExcludeBalancers+`":null}}}`)
	s.awaitHolder(t, agents, addr, first)

	speaker := apiserver.BoundPod("speaker-x", other.Node.Name, map[string]string{"app": "metallb", "component": "speaker"})
	speaker.Namespace = metallbNamespace
	check(t, s.cp.CreatePod(s.ctx, speaker))
	s.awaitHolder(t, agents, addr, "")
	if _, why := holder(t, one, addr); !strings.Contains(why, "MetalLB's speaker, pod metallb-system/speaker-x") {
		t.Errorf("why: %s", why)
	}
	check(t, s.cp.DeletePod(s.ctx, metallbNamespace, speaker.Name, 0))
	s.awaitHolder(t, agents, addr, first)
	served()
	for _, a := range agents {
		for _, p := range problemsBesides(t, a) {
			t.Errorf("%s: %s", a.Node.Name, p)
		}
	}

	s.cp.APIServer.Kill()
	one.Kill()
	s.awaitHolder(t, []*cluster.Agent{other}, addr, other.Node.Name)
	served()
}
