// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/waggle-lb/waggle/control/assign"
	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// balancer is a Service of type LoadBalancer.
func balancer(name string, edits ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: servicePort, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, edit := range edits {
		edit(svc)
	}
	return svc
}

func (s *setup) createBalancer(t *testing.T, svc *corev1.Service) {
	t.Helper()
	_, err := s.cp.CreateService(s.ctx, svc)
	check(t, err)
}

func (s *setup) get(t *testing.T, name string) *corev1.Service {
	t.Helper()
	svc, err := s.cp.Client().CoreV1().Services(metav1.NamespaceDefault).Get(s.ctx, name, metav1.GetOptions{})
	check(t, err)
	return svc
}

// addresses are those in the status of a Service.
func (s *setup) addresses(t *testing.T, name string) string {
	t.Helper()
	var list []string
	for _, i := range s.get(t, name).Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeVIP {
			t.Errorf("%s: %s is no VIP", name, i.IP)
		}
		list = append(list, i.IP)
	}
	return strings.Join(list, " ")
}

func (s *setup) awaitAddresses(t *testing.T, name, want string) {
	t.Helper()
	got := ""
	s.await(t, name+" to have "+want, func() bool { got = s.addresses(t, name); return got == want })
}

// statuses are the statuses of all load balancers, without what the API server changes by itself.
func (s *setup) statuses(t *testing.T) map[string]string {
	t.Helper()
	list, err := s.cp.Client().CoreV1().Services(metav1.NamespaceAll).List(s.ctx, metav1.ListOptions{})
	check(t, err)
	all := map[string]string{}
	for _, svc := range list.Items {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			raw, err := json.Marshal(svc.Status)
			check(t, err)
			all[svc.Name] = svc.ResourceVersion + " " + string(raw)
		}
	}
	return all
}

// awaitEvent waits for an event on a Service whose note contains some words.
func (s *setup) awaitEvent(t *testing.T, service, reason, words string) {
	t.Helper()
	s.await(t, "an event on "+service+": "+words, func() bool {
		list, err := s.cp.Client().EventsV1().Events(metav1.NamespaceDefault).List(s.ctx, metav1.ListOptions{})
		check(t, err)
		for _, e := range list.Items {
			if e.Regarding.Kind == "Service" && e.Regarding.Name == service && e.Reason == reason && strings.Contains(e.Note, words) {
				return true
			}
		}
		return false
	})
}

// giving is the agent that gives the addresses.
func giving(t *testing.T, agents []*cluster.Agent) (leader, other *cluster.Agent) {
	t.Helper()
	for i, a := range agents {
		st, err := status.Read(a.RunDir)
		check(t, err)
		for _, n := range st.Notices {
			if n == "addresses of pools: this agent gives them" {
				return a, agents[1-i]
			}
		}
	}
	return nil, nil
}

func (s *setup) awaitGiving(t *testing.T, agents []*cluster.Agent) (leader, other *cluster.Agent) {
	t.Helper()
	s.await(t, "an agent to give addresses", func() bool { leader, other = giving(t, agents); return leader != nil })
	return leader, other
}

// awaitProblem waits until an agent has a problem of an object.
func (s *setup) awaitProblem(t *testing.T, a *cluster.Agent, object, words string) {
	t.Helper()
	err := a.Await(object+": "+words, func(st *status.Status) bool {
		for _, p := range st.Problems {
			if p.Object == object && strings.Contains(p.Field+": "+p.Message, words) {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAddresses is the life of addresses in a cluster, with the rights that deploy/ gives and MetalLB's definitions.
func TestAddresses(t *testing.T) {
	s := newSetup(t)
	agents := s.newAgents(t, "--load-balancer-pools")
	s.deploy(t, "addresses.yaml")
	s.namespace(t, metallbNamespace)
	s.addPod(t, 0, "web", map[string]string{"app": "web"})
	s.install(t, metallbCRDs)
	for _, a := range agents {
		check(t, a.Start())
	}
	leader, other := s.awaitGiving(t, agents)
	s.createBalancer(t, balancer("first"))
	s.pool(t, "lan", "203.0.113.16/32")
	s.awaitAddresses(t, "first", "203.0.113.16")
	if c := pools.Condition(s.get(t, "first")); c == nil || c.Reason != pools.ReasonAllocated || c.Message != "203.0.113.16 from IPAddressPool metallb-system/lan" {
		t.Errorf("condition %+v", c)
	}
	laptop := client(t, s.Laptop)
	s.await(t, "the address to be served", func() bool {
		return laptop.Get(topo.Request{To: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.16"), servicePort)}).Err == ""
	})
	for _, a := range agents {
		list := ""
		s.await(t, "the address in the list of "+a.Node.Name, func() bool {
			out, err := a.CLI("address", "list")
			list = out
			return err == nil && strings.Contains(out, "203.0.113.16   IPAddressPool metallb-system/lan   default/first")
		})
		if out, err := a.CLI("address", "get", "203.0.113.16", "-o", "json"); err != nil || !strings.Contains(out, `"pool": "IPAddressPool metallb-system/lan"`) || !strings.Contains(out, `"since"`) {
			t.Errorf("%s\n%s %v", list, out, err)
		}
	}

	// Exhausted; then the pool is edited.
	s.createBalancer(t, balancer("second"))
	const exhausted = "spec.type: no pool gives it an address: IPAddressPool metallb-system/lan is exhausted (spec.addresses)"
	s.awaitEvent(t, "second", pools.ReasonPending, exhausted)
	s.awaitProblem(t, leader, "Service default/second", exhausted)
	s.pool(t, "lan", "203.0.113.17/32")
	s.awaitAddresses(t, "second", "203.0.113.17")
	s.awaitAddresses(t, "first", "203.0.113.16")
	s.awaitEvent(t, "first", pools.ReasonKept, "203.0.113.16 is kept though no pool has it any more: it is from IPAddressPool metallb-system/lan")

	// Pools of Cilium's, whose definitions come later than the agents; one that is malformed, and one that is deleted.
	s.install(t, ciliumCRDs)
	check(t, s.ciliumPool(t, "c", "203.0.113.32/32"))
	s.createBalancer(t, balancer("third"))
	s.awaitAddresses(t, "third", "203.0.113.32")
	s.pool(t, "bad", "203.0.113.300/32")
	for _, a := range agents {
		s.awaitProblem(t, a, "IPAddressPool metallb-system/bad", `spec.addresses[0]: Invalid value: "203.0.113.300/32"`)
	}
	check(t, s.dynamic(t).Resource(ciliumPools).Delete(s.ctx, "c", metav1.DeleteOptions{}))
	s.awaitProblem(t, leader, "Service default/third", "203.0.113.32 is kept though no pool has it any more: it is from CiliumLoadBalancerIPPool c")
	s.await(t, "the list to show that the pool is gone", func() bool {
		out, err := other.CLI("address", "get", "default/third")
		return err == nil && strings.Contains(out, "CiliumLoadBalancerIPPool c (gone)")
	})

	// A restart changes nothing.
	before := s.statuses(t)
	check(t, leader.Stop())
	check(t, leader.Start())
	s.awaitGiving(t, agents)
	s.createBalancer(t, balancer("fourth"))
	s.awaitEvent(t, "fourth", pools.ReasonPending, "is exhausted")
	after := s.statuses(t)
	delete(after, "fourth")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}

	// The agent dies that gives addresses: the other one takes over.
	leader, other = s.awaitGiving(t, agents)
	leader.Kill()
	s.pool(t, "lan", "203.0.113.17/32", "203.0.113.18/32")
	started := time.Now()
	s.awaitAddresses(t, "fourth", "203.0.113.18")
	t.Logf("taken over %v after the agent had been killed", time.Since(started).Round(time.Second))
	after = s.statuses(t)
	delete(after, "fourth")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after another agent has taken over (-before +after):\n%s", diff)
	}

	// What is no load balancer any more gives its address up.
	_, err := s.cp.Client().CoreV1().Services(metav1.NamespaceDefault).Patch(s.ctx, "second", types.MergePatchType,
		[]byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
	check(t, err)
	s.createBalancer(t, balancer("fifth"))
	s.awaitAddresses(t, "fifth", "203.0.113.17")
	s.awaitAddresses(t, "second", "")
	for _, p := range problemsBesides(t, other, "Service ", "IPAddressPool metallb-system/bad") {
		t.Errorf("%s: %s", other.Node.Name, p)
	}
}

func problemsBesides(t *testing.T, a *cluster.Agent, expected ...string) (list []string) {
	t.Helper()
	st, err := status.Read(a.RunDir)
	check(t, err)
	for _, p := range st.Problems {
		known := false
		for _, prefix := range expected {
			known = known || strings.HasPrefix(p.Object, prefix)
		}
		if !known {
			list = append(list, p.Object+": "+p.Message)
		}
	}
	return list
}

func (s *setup) ciliumPool(t *testing.T, name, cidr string) error {
	t.Helper()
	_, err := s.dynamic(t).Resource(ciliumPools).Create(s.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"blocks": []any{map[string]any{"cidr": cidr}}},
	}}, metav1.CreateOptions{})
	return err
}

// TestAddressesFromMetalLB: what MetalLB has given is taken over as it is, and not before its controller is gone.
func TestAddressesFromMetalLB(t *testing.T) {
	s := newSetup(t)
	agents := s.newAgents(t, "--load-balancer-pools")
	s.deploy(t, "addresses.yaml")
	s.install(t, metallbCRDs)
	s.namespace(t, metallbNamespace)
	s.pool(t, "production", "203.0.113.0/28")
	given := map[string]string{}
	for i := range 5 {
		name := fmt.Sprint("web-", i)
		given[name] = fmt.Sprintf("203.0.113.%d", i) // as MetalLB does, the first that is free
		if i == 4 {
			given[name] = given["web-3"]
		}
		s.createBalancer(t, balancer(name, func(svc *corev1.Service) {
			svc.Annotations["metallb.io/ip-allocated-from-pool"] = "production"
			if i >= 3 {
				svc.Annotations["metallb.universe.tf/allow-shared-ip"] = "key"
				svc.Spec.Ports[0].Port += int32(i)
			}
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: given[name]}}
		}))
	}
	// Another controller's Services: by its class, and by an address that is of no pool.
	class := "cloud.example/lb"
	s.createBalancer(t, balancer("cloud", func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &class }))
	s.createBalancer(t, balancer("elsewhere", func(svc *corev1.Service) {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	}))
	pod := apiserver.BoundPod("controller-7d9c", s.Nodes[0].Name, map[string]string{"app": "metallb", "component": "controller"})
	pod.Namespace = metallbNamespace
	check(t, s.cp.CreatePod(s.ctx, pod))
	s.createBalancer(t, balancer("pending"))
	before := s.statuses(t)

	for _, a := range agents {
		check(t, a.Start())
	}
	const waiting = "addresses of pools: none is given while MetalLB's controller runs (pod metallb-system/controller-7d9c)"
	s.await(t, "an agent to say that MetalLB's controller runs", func() bool {
		for _, a := range agents {
			if out, err := a.CLI("status"); err == nil && strings.Contains(out, waiting) {
				return true
			}
		}
		return false
	})
	time.Sleep(12 * time.Second) // as long as it takes to look again: nothing is to come about
	if diff := cmp.Diff(before, s.statuses(t)); diff != "" {
		t.Errorf("beside MetalLB's controller (-before +after):\n%s", diff)
	}

	check(t, s.cp.DeletePod(s.ctx, metallbNamespace, "controller-7d9c", 0))
	s.await(t, "the Service that waits to have an address", func() bool { return s.addresses(t, "pending") != "" })
	for name, want := range given {
		s.await(t, name+" to be taken over", func() bool {
			c := pools.Condition(s.get(t, name))
			return c != nil && c.Reason == pools.ReasonAdopted
		})
		if got := s.addresses(t, name); got != want {
			t.Errorf("%s had %s of MetalLB, and has %s", name, want, got)
		}
	}
	if got := s.addresses(t, "cloud") + s.addresses(t, "elsewhere"); got != "192.0.2.1" {
		t.Errorf("another controller's Services have %q", got)
	}
	settled := s.statuses(t)
	leader, _ := s.awaitGiving(t, agents)
	check(t, leader.Stop())
	check(t, leader.Start())
	s.awaitGiving(t, agents)
	time.Sleep(time.Second)
	if diff := cmp.Diff(settled, s.statuses(t)); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// TestAddressesFromCilium: what Cilium has given is taken over as it is, once its operator is configured to give no more.
func TestAddressesFromCilium(t *testing.T) {
	s := newSetup(t)
	agents := s.newAgents(t, "--load-balancer-pools")
	s.deploy(t, "addresses.yaml")
	s.install(t, ciliumCRDs)
	check(t, s.ciliumPool(t, "blue", "203.0.113.0/28"))
	s.createBalancer(t, balancer("given", func(svc *corev1.Service) {
		svc.Annotations["lbipam.cilium.io/ips"] = "203.0.113.7,203.0.113.8"
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}, {IP: "203.0.113.8"}}
	}))
	s.createBalancer(t, balancer("pending"))
	config := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cilium-config", Namespace: metav1.NamespaceSystem}, Data: map[string]string{"enable-lb-ipam": "true"},
	}
	configMaps := s.cp.Client().CoreV1().ConfigMaps(metav1.NamespaceSystem)
	_, err := configMaps.Create(s.ctx, config, metav1.CreateOptions{})
	check(t, err)
	pod := apiserver.BoundPod("cilium-operator-5c", s.Nodes[0].Name, map[string]string{"io.cilium/app": "operator", "name": "cilium-operator"})
	pod.Namespace = metav1.NamespaceSystem
	check(t, s.cp.CreatePod(s.ctx, pod))
	before := s.statuses(t)
	for _, a := range agents {
		check(t, a.Start())
	}
	const waiting = "addresses of pools: none is given while Cilium's operator runs (pod kube-system/cilium-operator-5c)"
	s.await(t, "an agent to say that Cilium's operator runs", func() bool {
		for _, a := range agents {
			if out, err := a.CLI("status"); err == nil && strings.Contains(out, waiting) {
				return true
			}
		}
		return false
	})
	if diff := cmp.Diff(before, s.statuses(t)); diff != "" {
		t.Errorf("beside Cilium's operator (-before +after):\n%s", diff)
	}
	config.Data["enable-lb-ipam"] = "false"
	_, err = configMaps.Update(s.ctx, config, metav1.UpdateOptions{})
	check(t, err)
	s.await(t, "the Service that waits to have an address", func() bool { return s.addresses(t, "pending") != "" })
	s.awaitAddresses(t, "given", "203.0.113.7 203.0.113.8")
}

// counted counts the requests of a client, by what they do.
type counted struct {
	next http.RoundTripper
	all  *counts
}

type counts struct {
	sync.Mutex
	by    map[string]int
	total atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	what := r.Method
	if r.URL.Query().Get("watch") != "" {
		what = "watch"
	}
	c.all.total.Add(1)
	c.all.Lock()
	c.all.by[what]++
	c.all.Unlock()
	return c.next.RoundTrip(r)
}

// TestAddressesAtScale prints how long a thousand Services take that all want an address, and how many requests.
func TestAddressesAtScale(t *testing.T) {
	s := newSetup(t)
	s.install(t, metallbCRDs)
	s.namespace(t, metallbNamespace)
	const many = 1000
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			for i := w; i < many; i += 10 {
				s.createBalancer(t, balancer(fmt.Sprint("web-", i), func(svc *corev1.Service) {
					no := false
					svc.Spec.AllocateLoadBalancerNodePorts = &no
					policy := corev1.IPFamilyPolicyRequireDualStack
					svc.Spec.IPFamilyPolicy = &policy
				}))
			}
		})
	}
	wg.Wait()
	s.pool(t, "lan", "10.200.0.0/21", "2001:db8:1::/64")

	made := &counts{by: map[string]int{}}
	config, err := s.cp.Config(apiserver.Admin)
	check(t, err)
	config.QPS, config.Burst = 100, 200 // as an agent has it
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counted{next, made} })
	clients, err := kubernetes.NewForConfig(config)
	check(t, err)
	dyn, err := dynamic.NewForConfig(config)
	check(t, err)
	log := logrus.New()
	log.SetOutput(io.Discard)
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(s.ctx)
		a := assign.New(assign.Options{NodeName: "n", Namespace: metav1.NamespaceSystem, Client: clients, Dynamic: dyn, Log: logrus.NewEntry(log)})
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		return func() { cancel(); <-done }
	}
	began := time.Now()
	stop := start()
	with := map[string]string{}
	s.await(t, "a thousand Services to have addresses", func() bool {
		list, err := s.cp.Client().CoreV1().Services(metav1.NamespaceDefault).List(s.ctx, metav1.ListOptions{})
		check(t, err)
		with = map[string]string{}
		for _, svc := range list.Items {
			for _, i := range svc.Status.LoadBalancer.Ingress {
				with[i.IP] = svc.Name
			}
		}
		return len(with) == 2*many
	})
	t.Logf("%d Services have %d addresses after %v, and %d requests: %v", many, len(with), time.Since(began).Round(100*time.Millisecond), made.total.Load(), made.by)
	stop()
	before := s.statuses(t)
	made.Lock()
	patched := made.by[http.MethodPatch]
	made.Unlock()
	defer start()()
	s.createBalancer(t, balancer("one-more"))
	s.await(t, "one more", func() bool { return s.addresses(t, "one-more") != "" })
	after := s.statuses(t)
	delete(after, "one-more")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("another allocator has changed addresses: %s", diff)
	}
	made.Lock()
	defer made.Unlock()
	if again := made.by[http.MethodPatch] - patched; again != 1 {
		t.Errorf("one more Service took %d patches", again)
	}
}
