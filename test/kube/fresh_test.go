// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
)

// lead is where a frontend leads clients of both kinds, for comparison: in
// words, since the ids in maps depend on what came before.
type lead struct{ Service, External, Internal string }

// objects are what a plan is made of.
type objects struct {
	services []corev1.Service
	slices   []discoveryv1.EndpointSlice
	pods     []corev1.Pod
	nodes    map[string]corev1.Node
}

// list reads the objects afresh.
func (s *setup) list(ctx context.Context) (o objects, err error) {
	api := s.cp.Client()
	services, err := api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return o, err
	}
	slicesOf, err := api.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return o, err
	}
	pods, err := api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return o, err
	}
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return o, err
	}
	o = objects{services.Items, slicesOf.Items, pods.Items, map[string]corev1.Node{}}
	for _, n := range nodes.Items {
		o.nodes[n.Name] = n
	}
	return o, nil
}

// settled is nil when the controller's slices hold the ready pods that each
// service selects, in both families.
func (o objects) settled() error {
	want, have := map[string]int{}, map[string]int{}
	for _, svc := range o.services {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		selector := labels.SelectorFromSet(svc.Spec.Selector)
		want[svc.Name] = 0
		for i := range o.pods {
			if isReady(&o.pods[i]) && selector.Matches(labels.Set(o.pods[i].Labels)) {
				want[svc.Name] += 2
			}
		}
	}
	for name := range want {
		have[name] = 0
	}
	for _, slice := range o.slices {
		name := slice.Labels[discoveryv1.LabelServiceName]
		if _, selects := want[name]; !selects && slice.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" {
			continue
		}
		for _, e := range slice.Endpoints {
			if ptr.Deref(e.Conditions.Ready, true) {
				have[name]++
			}
		}
	}
	if diff := gocmp.Diff(want, have); diff != "" {
		return fmt.Errorf("ready endpoints of services (-pods +slices):\n%s", diff)
	}
	return nil
}

// freshPlan is what an agent that starts now would plan for a node.
func (o objects) freshPlan(node string) map[maps.Frontend]lead {
	out := map[maps.Frontend]lead{}
	self := plan.Node{Name: node, Labels: o.nodes[node].Labels}
	for family, ipFamily := range map[maps.Family]corev1.IPFamily{maps.IPv4: corev1.IPv4Protocol, maps.IPv6: corev1.IPv6Protocol} {
		services := proxy.NewServiceChangeTracker(ipFamily, nil, nil)
		endpoints := proxy.NewEndpointsChangeTracker(ipFamily, node, nil, nil)
		for i := range o.services {
			services.Update(nil, &o.services[i])
		}
		for i := range o.slices {
			endpoints.EndpointSliceUpdate(&o.slices[i], false)
		}
		ports, of := proxy.ServicePortMap{}, proxy.EndpointsMap{}
		ports.Update(services)
		of.Update(endpoints)
		for name, port := range ports {
			svc := plan.Plan(name, family, port, of[name], self)
			for _, f := range svc.Frontends {
				out[f.Frontend] = lead{svc.Name.String(), planned(svc, f.External), planned(svc, f.Internal)}
			}
		}
	}
	return out
}

func planned(svc plan.Service, scope plan.Scope) string {
	var all []netip.AddrPort
	for _, e := range svc.Endpoints[scope.Set] {
		all = append(all, netip.AddrPortFrom(e.Addr, e.Port))
	}
	return describe(all, scope.Drop)
}

// written is what an agent has in its maps.
func written(c *cluster.Contents) map[maps.Frontend]lead {
	out := map[maps.Frontend]lead{}
	for f, svc := range c.Frontends {
		block := func(b maps.Block, drop bool) string {
			var all []netip.AddrPort
			for _, id := range c.Slots[b] {
				all = append(all, netip.AddrPortFrom(c.Backends[id].Addr, c.Backends[id].Port))
			}
			return describe(all, drop)
		}
		out[f] = lead{c.Names[svc.ID].String(), block(svc.External, svc.ExternalDrop), block(svc.Internal, svc.InternalDrop)}
	}
	return out
}

func describe(all []netip.AddrPort, drop bool) string {
	slices.SortFunc(all, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	return fmt.Sprint(slices.Compact(all), drop)
}

// awaitFreshPlan waits until the controller has done its part, and then until
// the maps of an agent hold exactly what a fresh plan would.
func (s *setup) awaitFreshPlan(t *testing.T, agents []*cluster.Agent) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		o, err := s.list(s.ctx)
		check(t, err)
		last = ""
		if err := o.settled(); err != nil {
			last = err.Error()
			continue
		}
		for _, a := range agents {
			c, err := a.Contents()
			check(t, err)
			if diff := gocmp.Diff(o.freshPlan(a.Node.Name), written(c), gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				last = fmt.Sprintf("the maps of %s differ from a fresh plan (-plan +maps):\n%s", a.Node.Name, diff)
			}
		}
		if last == "" {
			return
		}
	}
	t.Error(last)
}
