// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// TestFetchAhead: Run passes on what was fetched before it without another request, and follows from there.
func TestFetchAhead(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"), serviceObject("a"), sliceObject("a", "10.1.0.1:8080"))
	s, err := New(c.options(c.kubeconfig(c.serve("").address)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.FetchAhead(ctx)
	watched := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.watchers)
	}
	for deadline := time.Now().Add(20 * time.Second); watched() < len(kinds); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d kinds are watched before Run, want %d", watched(), len(kinds))
		}
	}
	for _, kind := range kinds {
		c.refuse(kind, http.StatusInternalServerError)
	}
	f := follows(t, s)
	f.until("synced", func() bool { return slices.Contains(f.all(), "synced") })
	if calls := f.all(); calls[len(calls)-1] != "synced" {
		t.Errorf("synced is not the last: %q", calls)
	}
	f.expect("add node node-a", "add service a", "add slice a-1", "synced")
	c.put(serviceObject("b"))
	f.expect("add service b")
	f.stop()
	must(t, f.fails())
	for deadline := time.Now().Add(20 * time.Second); watched() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d kinds are watched after Run", watched())
		}
	}
}

// Row 1: headless Services are not seen, nor are the endpoints of other proxies' Services.
func TestFollow(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"), serviceObject("a"), sliceObject("a", "10.1.0.1:8080"))
	c.put(serviceObject("theirs", labelled("service.kubernetes.io/service-proxy-name", "other")))
	c.put(serviceObject("headless", labelled("service.kubernetes.io/headless", "")))
	other := nodeObject("10.0.0.2")
	other.Name = "node-b"
	c.put(other)
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.until("synced", func() bool { return slices.Contains(f.all(), "synced") })
	if calls := f.all(); calls[len(calls)-1] != "synced" {
		t.Errorf("synced is not the last: %q", calls)
	}
	f.expect("add node node-a", "add service a", "add service theirs", "add slice a-1", "synced")

	c.put(serviceObject("b"))
	f.expect("add service b")
	c.put(serviceObject("b", labelled("x", "y")))
	f.expect("update service b")
	c.put(serviceObject("b", labelled("service.kubernetes.io/headless", "")))
	f.expect("delete service b")
	c.put(serviceObject("b"))
	f.expect("add service b")
	c.put(serviceObject("b", labelled("service.kubernetes.io/service-proxy-name", "other")))
	f.expect("update service b") // the sink sees by it that the Service is no longer ours
	c.put(sliceObject("a", "10.1.0.2:8080"))
	f.expect("update slice a-1")
	moved := sliceObject("a", "10.1.0.2:8080")
	moved.Labels["kubernetes.io/service-name"] = "b"
	c.put(moved)
	f.expect("delete slice a-1", "add slice a-1")
	c.remove(sliceObject("a"))
	f.expect("delete slice a-1")
	if since, why := f.Blind(); !since.IsZero() || why != "" {
		t.Errorf("blind since %v: %s", since, why)
	}
	f.stop()
	if err := f.fails(); err != nil {
		t.Errorf("asked to end, it says %v", err)
	}
}

func TestServiceProxyName(t *testing.T) {
	for named, want := range map[bool]string{
		false: "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", true: "!service.kubernetes.io/headless",
	} {
		if got := selector(named).String(); got != want {
			t.Errorf("%t: got %s, want %s", named, got, want)
		}
	}
}

// Row 33.
func TestNode(t *testing.T) {
	zoned := nodeObject("10.0.0.1")
	zoned.Labels = map[string]string{v1.LabelTopologyZone: "b"}
	for name, test := range map[string]struct {
		before, then *v1.Node // then nil: deleted
		calls        []string
		fails        string
	}{
		"a label":              {nodeObject("10.0.0.1"), zoned, []string{"update node node-a"}, ""},
		"another address":      {nodeObject("10.0.0.1"), nodeObject("10.0.0.2"), []string{"update node node-a"}, ""},
		"another family":       {nodeObject("10.0.0.1"), nodeObject("10.0.0.1", "fd00::1"), []string{"update node node-a"}, ""},
		"one more of a family": {nodeObject("10.0.0.1"), nodeObject("10.0.0.1", "10.0.0.2"), []string{"update node node-a"}, ""},
		"no address":           {nodeObject("10.0.0.1"), nodeObject(), []string{"update node node-a"}, ""},
		"deleted":              {nodeObject("10.0.0.1"), nil, nil, "our Node node-a was deleted"},
		"made anew":            {nodeObject("10.0.0.1"), withUID(nodeObject("10.0.0.1"), "2"), nil, "our Node node-a was deleted, and made anew"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.put(test.before)
			f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
			f.expect("add node node-a", "synced")
			if test.then == nil {
				c.remove(test.before)
			} else {
				c.put(test.then)
			}
			if test.fails == "" {
				f.expect(test.calls...)
				return
			}
			if err := f.fails(); err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("got error %v, want %s", err, test.fails)
			}
			if calls := f.all(); len(calls) > 0 {
				t.Errorf("the sink got %q", calls)
			}
		})
	}
}

// Row 33: OnSynced is not called before our Node is known.
func TestNodeIsAwaited(t *testing.T) {
	c := newCluster(t)
	c.put(serviceObject("a"))
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.expect("add service a")
	c.put(nodeObject())
	c.put(serviceObject("b"))
	f.expect("add service b")
	c.put(nodeObject("10.0.0.1"))
	f.expect("add node node-a", "synced")
}

func TestNodeWithoutAddresses(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject())
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)), func(s *Source) { s.pace.addresses = time.Millisecond })
	f.expect("add node node-a", "synced")
	c.put(nodeObject("10.0.0.1"))
	f.expect("update node node-a")
}

// A Node whose only address is an external one has an address.
func TestNodeWithAnExternalAddress(t *testing.T) {
	c := newCluster(t)
	outside := nodeObject()
	outside.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: thisNode}, {Type: v1.NodeExternalIP, Address: "192.0.2.1"}}
	c.put(outside)
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.expect("add node node-a", "synced")
}

func TestNoNode(t *testing.T) {
	c := newCluster(t)
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)), func(s *Source) {
		s.pace.addresses, s.pace.node = time.Millisecond, 2*time.Millisecond
	})
	if err := f.fails(); err == nil || !strings.Contains(err.Error(), "there is no Node node-a") {
		t.Errorf("got error %v", err)
	}
	if calls := f.all(); len(calls) > 0 {
		t.Errorf("the sink got %q", calls)
	}
}

// Row 6, and the behaviour while the API server is away.
func TestBlind(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"), serviceObject("a"), serviceObject("b"))
	s := c.serve("")
	f := c.follow(c.options(c.kubeconfig(s.address)))
	f.expect("add node node-a", "add service a", "add service b", "synced")
	before := time.Now()
	s.stop()
	f.until("blind", func() bool { since, _ := f.Blind(); return !since.IsZero() })
	since, why := f.Blind()
	gone := regexp.MustCompile("connection refused|EOF|could not be established") // depends on when the server ends
	if since.Before(before.Add(-testPace.probe)) || !gone.MatchString(why) {
		t.Errorf("blind since %v (stopped %v): %s", since, before, why)
	}
	c.remove(serviceObject("b"))
	c.put(serviceObject("c"))
	f.until("all kinds fail", func() bool {
		f.sight.mu.Lock()
		defer f.sight.mu.Unlock()
		return len(f.sight.failures) == 5
	})
	if calls := f.all(); len(calls) > 0 {
		t.Errorf("the sink got while blind: %q", calls)
	}
	c.serve(s.address)
	f.until("sees again", func() bool { since, _ := f.Blind(); return since.IsZero() })
	f.expect("delete service b", "add service c")
}

// A server that can't be reached yet is waited for.
func TestBlindFromTheStart(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	address := deadAddress(t)
	f := c.follow(c.options(c.kubeconfig(address)), func(s *Source) { s.pace.node = time.Millisecond })
	f.until("blind", func() bool { since, _ := f.Blind(); return !since.IsZero() })
	c.serve(address)
	f.expect("add node node-a", "synced")
	f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })
}

func TestNotReady(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.expect("add node node-a", "synced")
	c.mu.Lock()
	c.unready = true
	c.mu.Unlock()
	f.until("blind", func() bool {
		_, why := f.Blind()
		return why == "API server: not ready: 500 Internal Server Error"
	})
	c.put(serviceObject("a")) // changes that still arrive are passed on
	f.expect("add service a")
	c.mu.Lock()
	c.unready = false
	c.mu.Unlock()
	f.until("sees again", func() bool { since, _ := f.Blind(); return since.IsZero() })
}

// If rights are missing, the problem names them.
func TestForbidden(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	c.refuse(endpointSlices, http.StatusForbidden)
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.until("blind", func() bool {
		_, why := f.Blind()
		return strings.HasPrefix(why, "endpointslices: ") && strings.Contains(why, "(get endpointslices.discovery.k8s.io)")
	})
	c.refuse(endpointSlices, 0)
	f.expect("add node node-a", "synced")
	f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })
}

// Row 22.
func TestServiceCIDRs(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	opts := c.options(c.kubeconfig(c.serve("").address))
	opts.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
	f := c.follow(opts)
	f.expect("add node node-a", "ranges [10.99.0.0/16]", "synced")
	c.put(cidrObject("kubernetes", "10.96.0.0/16", "fd00:10:96::/112"))
	f.expect("ranges [10.96.0.0/16 fd00:10:96::/112]")
	c.put(cidrObject("more", "10.98.0.0/16", "nonsense"))
	f.expect("ranges [10.96.0.0/16 10.98.0.0/16 fd00:10:96::/112]")
	c.remove(cidrObject("kubernetes"))
	f.expect("ranges [10.98.0.0/16]")
	if problems := f.Problems(); len(problems) > 0 {
		t.Errorf("problems %v", problems)
	}
}

func TestNoServiceCIDRs(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden} {
		c := newCluster(t)
		c.put(nodeObject("10.0.0.1"))
		c.refuse(serviceCIDRs, status)
		opts := c.options(c.kubeconfig(c.serve("").address))
		opts.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
		f := c.follow(opts)
		f.expect("add node node-a", "ranges [10.99.0.0/16]", "synced")
		f.until("a problem", func() bool {
			p := f.Problems()
			return len(p) == 1 && strings.Contains(p[0].Message, "--service-cidrs") && !p[0].Since.IsZero()
		})
		if since, why := f.Blind(); !since.IsZero() {
			t.Errorf("%d: blind: %s", status, why)
		}
	}
}

func TestStartingEvent(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	f := c.follow(c.options(c.kubeconfig(c.serve("").address)))
	f.until("an event", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.events) > 0
	})
	e := c.events[0]
	if e.Reason != "Starting" || e.Regarding.Kind != "Node" || e.Regarding.Name != thisNode || e.Type != v1.EventTypeNormal || e.ReportingController != "waggle" {
		t.Errorf("got %+v", e)
	}
}

// Events must never block, even without a server.
func TestEventsAreForgotten(t *testing.T) {
	c := newCluster(t)
	f := c.follow(c.options(c.kubeconfig(deadAddress(t))))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 5000 {
			f.Recorder().Eventf(f.nodeRef(), nil, v1.EventTypeWarning, "Many", "Test", "x")
		}
	}()
	f.until("recorded", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

// One server is dead, one hangs in the TLS handshake, one has another cluster's certificate.
func TestFailover(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	foreign, good, other := newCluster(t).serve(""), c.serve(""), c.serve("")
	opts := c.options(c.kubeconfig(deadAddress(t)))
	opts.APIServers = []string{deadAddress(t), hangingAddress(t), foreign.address, good.address, other.address}
	f := c.follow(opts)
	f.expect("add node node-a", "synced")
	f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })
	if first := f.learning.dialer.addresses()[0]; first != good.address {
		t.Errorf("%s is preferred, want %s of %q", first, good.address, f.learning.dialer.addresses())
	}
	good.stop()
	c.put(serviceObject("a"))
	f.expect("add service a")
	f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })
}

// From within a pod the cluster IP of the API server is the last resort, and certificates are checked for the
// name that they always have.
func TestFromPod(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	s := c.serve("")
	for name, test := range map[string]struct {
		host    string
		servers []string
	}{
		"real addresses":              {deadAddress(t), []string{s.address}},
		"the cluster IP, if it works": {s.address, nil},
		"as a fallback":               {s.address, []string{deadAddress(t)}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := c.options("")
			opts.APIServers = test.servers
			f := c.followFromPod(opts, c.pod(test.host))
			f.t = t
			f.expect("add node node-a", "synced")
		})
	}
}

func TestNotInPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := New(newCluster(t).options("")); err == nil || !strings.Contains(err.Error(), rest.ErrNotInCluster.Error()) {
		t.Errorf("got error %v", err)
	}
}

// Learnt addresses outlive the server that reported them, and the agent.
func TestLearning(t *testing.T) {
	c := newCluster(t)
	given, learnt := c.serve(""), c.serve("")
	c.put(nodeObject("10.0.0.1"), sliceObject("kubernetes", learnt.address), sliceObject("other", "10.1.0.1:6443"))
	opts := c.options(c.kubeconfig(given.address))
	opts.AddressFile = filepath.Join(t.TempDir(), "run", "api-servers")
	f := c.follow(opts)
	f.expect("add node node-a", "add slice kubernetes-1", "add slice other-1", "synced")
	given.stop()
	c.put(serviceObject("a"))
	f.expect("add service a")
	f.stop()
	must(t, f.fails())
	if raw, err := os.ReadFile(opts.AddressFile); err != nil || string(raw) != learnt.address+"\n" {
		t.Errorf("kept %q, error %v", raw, err)
	}
	c.follow(opts).expect("add node node-a", "add service a", "add slice kubernetes-1", "add slice other-1", "synced")
}
