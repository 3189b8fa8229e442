// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

const thisNode = "node-a"

// recorder is a Sink that records its calls, in their order.
type recorder struct {
	busy  sync.Mutex // calls come one at a time
	mu    sync.Mutex
	calls []string
}

func (r *recorder) record(call string) {
	if !r.busy.TryLock() {
		call = "AT ONCE " + call
	} else {
		defer r.busy.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

func change[T any, P interface {
	*T
	metav1.Object
}](r *recorder, kind string, old, new P) {
	switch {
	case old == nil:
		r.record("add " + kind + " " + new.GetName())
	case new == nil:
		r.record("delete " + kind + " " + old.GetName())
	default:
		r.record("update " + kind + " " + new.GetName())
	}
}

func (r *recorder) OnService(old, new *v1.Service) { change(r, "service", old, new) }
func (r *recorder) OnNode(old, new *v1.Node)       { change(r, "node", old, new) }
func (r *recorder) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	change(r, "slice", old, new)
}

func (r *recorder) OnServiceCIDRs(p []netip.Prefix) { r.record(fmt.Sprint("ranges ", p)) }
func (r *recorder) OnSynced()                       { r.record("synced") }

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// follower is a running Source with its Sink.
type follower struct {
	*Source
	*recorder
	t     *testing.T
	ended chan error
	stop  context.CancelFunc
}

var testPace = pace{
	probe: 50 * time.Millisecond, reprobe: 20 * time.Millisecond, longest: 40 * time.Millisecond, answer: 5 * time.Second,
	node: time.Minute, addresses: time.Minute,
}

func (c *cluster) options(kubeconfig string) Options {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return Options{NodeName: thisNode, Kubeconfig: kubeconfig, Log: logrus.NewEntry(log)}
}

func (c *cluster) follow(opts Options, edits ...func(*Source)) *follower {
	c.t.Helper()
	s, err := New(opts)
	must(c.t, err)
	return follows(c.t, s, edits...)
}

func (c *cluster) followFromPod(opts Options, pod func() (*rest.Config, error)) *follower {
	c.t.Helper()
	s, err := newSource(opts, pod)
	must(c.t, err)
	return follows(c.t, s)
}

func follows(t *testing.T, s *Source, edits ...func(*Source)) *follower {
	s.pace = testPace
	s.learning.dialer.hello = 200 * time.Millisecond
	for _, edit := range edits {
		edit(s)
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &follower{Source: s, recorder: &recorder{}, t: t, ended: make(chan error, 1), stop: stop}
	go func() {
		err := s.Run(ctx, f.recorder)
		f.ended <- err
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-f.ended:
		case <-time.After(20 * time.Second):
			t.Error("the source does not end")
		}
	})
	return f
}

// until waits until check returns true.
func (f *follower) until(what string, check func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			since, why := f.Blind()
			f.t.Fatalf("%s: not in time; the sink got %q, blind %v %s, problems %v", what, f.all(), since, why, f.Problems())
		}
	}
}

// expect waits for calls, and removes them from the record. Calls of different kinds may come in any
// order.
func (f *follower) expect(want ...string) {
	f.t.Helper()
	f.until(fmt.Sprintf("%q", want), func() bool { return len(f.all()) >= len(want) })
	f.mu.Lock()
	got := f.calls
	f.calls = nil
	f.mu.Unlock()
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		f.t.Fatalf("calls of the sink (-want +got):\n%s", diff)
	}
}

// fails waits for the end of the run, and returns its error.
func (f *follower) fails() error {
	f.t.Helper()
	select {
	case err := <-f.ended:
		f.ended <- err
		return err
	case <-time.After(20 * time.Second):
		f.t.Fatalf("still running; the sink got %q", f.all())
		return nil
	}
}

func serviceObject(name string, edits ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", Ports: []v1.ServicePort{{Port: 80}}},
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func labelled(pairs ...string) func(*v1.Service) {
	return func(s *v1.Service) {
		s.Labels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			s.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

// sliceObject makes a slice of a service, with these addresses and one port.
func sliceObject(service string, addresses ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4,
	}
	for _, a := range addresses {
		at := netip.MustParseAddrPort(a)
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{at.Addr().String()}})
		s.Ports = []discovery.EndpointPort{{Port: ptr.To(int32(at.Port()))}}
	}
	return s
}

func nodeObject(addresses ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: thisNode, UID: "1"}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return n
}

func withUID(n *v1.Node, uid types.UID) *v1.Node {
	n.UID = uid
	return n
}

func cidrObject(name string, cidrs ...string) *networking.ServiceCIDR {
	return &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networking.ServiceCIDRSpec{CIDRs: cidrs}}
}
