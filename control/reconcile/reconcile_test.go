// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

func expectError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func expectWrites(t *testing.T, what string, got, want Writes) {
	t.Helper()
	if got != want {
		t.Errorf("%s: wrote %+v, want %+v", what, got, want)
	}
}

var (
	localOnly = plan.Scope{Set: plan.Local}
	dropped   = plan.Scope{Set: plan.Local, Drop: true}
)

func TestApply(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(
		web(to("10.1.0.1", "10.1.0.2*"), at(maps.NodePort, "0.0.0.0", localOnly)),
		named("six", "fd00:96::1", to("fd00:1::1*")),
		named("empty", "10.96.0.2"),
		named("remote", "10.96.0.3", at(maps.LoadBalancer, "192.0.2.1", dropped), to("10.1.0.9")),
	)
	f.expectMaps(
		"10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.2:8080*",
		"0.0.0.0:80/TCP NodePort default/web -> 10.1.0.2:8080*; inside -> 10.1.0.1:8080 10.1.0.2:8080*",
		"[fd00:96::1]:80/TCP ClusterIP default/six -> [fd00:1::1]:8080*",
		"10.96.0.2:80/TCP ClusterIP default/empty -> refused",
		"10.96.0.3:80/TCP ClusterIP default/remote -> 10.1.0.9:8080",
		"192.0.2.1:80/TCP LoadBalancer default/remote -> dropped; inside -> 10.1.0.9:8080",
	)
	f.expectNoLeak()
}

// The work is proportional to the change.
func TestWritesAreMinimal(t *testing.T) {
	nodePort := at(maps.NodePort, "0.0.0.0")
	for _, c := range []struct {
		name        string
		before, now plan.Service
		want        Writes
	}{
		{"nothing", web(nodePort, to("10.1.0.1")), web(nodePort, to("10.1.0.1")), Writes{}},
		{"an endpoint comes", web(nodePort, to("10.1.0.1")), web(nodePort, to("10.1.0.1", "10.1.0.2")), Writes{Frontends: 2, Backends: 1, Blocks: 1}},
		{"an endpoint goes", web(nodePort, to("10.1.0.1", "10.1.0.2")), web(nodePort, to("10.1.0.1")), Writes{Frontends: 2, Backends: 1, Blocks: 1}},
		{"an endpoint is replaced", web(to("10.1.0.1")), web(to("10.1.0.2")), Writes{Frontends: 1, Backends: 2, Blocks: 1}},
		{"the last endpoint goes", web(to("10.1.0.1")), web(), Writes{Frontends: 1, Backends: 1}},
		{"an endpoint turns out to be local", web(to("10.1.0.1")), web(to("10.1.0.1*")), Writes{Backends: 1}},
		{"a frontend comes", web(to("10.1.0.1")), web(nodePort, to("10.1.0.1")), Writes{Frontends: 1}},
		{"a frontend goes", web(nodePort, to("10.1.0.1")), web(to("10.1.0.1")), Writes{Frontends: 1}},
		{"a frontend's kind", web(at(maps.ExternalIP, "192.0.2.1")), web(at(maps.LoadBalancer, "192.0.2.1")), Writes{Frontends: 1}},
		{"the policy, all being local", web(at(maps.NodePort, "0.0.0.0"), to("10.1.0.1*")), web(at(maps.NodePort, "0.0.0.0", localOnly), to("10.1.0.1*")), Writes{Frontends: 1}},
		{"the policy", web(nodePort, to("10.1.0.1*", "10.1.0.2")), web(at(maps.NodePort, "0.0.0.0", localOnly), to("10.1.0.1*", "10.1.0.2")), Writes{Frontends: 1, Blocks: 1}},
	} {
		f := newFixture(t, nil)
		f.apply(named("other", "10.96.0.9", to("10.1.0.1")), c.before)
		expectWrites(t, c.name, f.written(c.now), c.want)
		expectWrites(t, c.name+", and once more", f.written(c.now), Writes{})
	}
}

// Blocks that were given back are room, at once if there is no other: see maps.Slots.
func TestBlocksComeBack(t *testing.T) {
	f := newFixture(t, map[string]uint32{"slots": 4})
	for _, second := range []string{"10.1.0.2", "10.1.0.3", "10.1.0.4"} {
		f.apply(web(to("10.1.0.1", second)))
		f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 " + second + ":8080")
	}
	three := web(to("10.1.0.1", "10.1.0.2", "10.1.0.3"))
	expectError(t, f.r.Apply(three), "service default/web:http (TCP, IPv4): no 3 contiguous slots are free of 4")
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.4:8080")
	f.apply(web())
	f.apply(three)
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080")
	f.rest()
	f.expectNoLeak()
}

func TestRestart(t *testing.T) {
	services := []plan.Service{
		web(to("10.1.0.1", "10.1.0.2*"), at(maps.NodePort, "0.0.0.0", localOnly)),
		named("six", "fd00:96::1", to("fd00:1::1*", "fd00:1::2")), named("empty", "10.96.0.2"),
		named("remote", "10.96.0.3", at(maps.LoadBalancer, "192.0.2.1", dropped), to("10.1.0.9")),
	}
	f := newFixture(t, nil)
	f.apply(services...)
	before := meaning(t, f.maps)
	for range 3 {
		f.restart()
		f.expectMaps(before...)
		expectWrites(t, "the same plans after a restart", f.written(services...), Writes{})
	}
	f.apply(web(to("10.1.0.3")))
	f.must(f.r.Delete(services[1].Name))
	f.restart()
	f.expectNoLeak()
}

// An agent that is killed leaves changes half done. The next one finishes them.
func TestRestartAfterCrash(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1", "10.1.0.2")))
	// Killed after it wrote the backends and blocks of a change, and before it published them.
	want := web(to("10.1.0.1", "10.1.0.3"))
	svc := f.r.services[want.Name]
	f.r.want(want)
	f.must(f.r.putBackends(svc))
	_, err := f.r.putBlocks(svc, want)
	f.must(err)
	f.restart()
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.2:8080")
	expectWrites(t, "the rest of the change", f.written(want), Writes{Frontends: 1, Backends: 1, Blocks: 1})
	// Killed after it wrote the name of a new service.
	_, err = f.r.service(maps.Name{Namespace: "default", Name: "new", Proto: 6, Family: maps.IPv4}, maps.PlainType)
	f.must(err)
	f.restart()
	f.expectNoLeak()
}

func TestConflict(t *testing.T) {
	f := newFixture(t, nil)
	shared := at(maps.ExternalIP, "192.0.2.1")
	first := named("first", "10.96.0.1", shared, to("10.1.0.1"))
	second := named("second", "10.96.0.2", shared, to("10.1.0.2"))
	f.apply(first)
	for range 2 {
		err := f.r.Apply(second)
		expectError(t, err, "service default/second:http", "192.0.2.1:80/TCP belongs to service default/first:http (TCP, IPv4)")
		if !errors.Is(err, ErrTaken) {
			t.Error("it is not ErrTaken")
		}
	}
	f.expectMaps(
		"10.96.0.1:80/TCP ClusterIP default/first -> 10.1.0.1:8080",
		"192.0.2.1:80/TCP ExternalIP default/first -> 10.1.0.1:8080",
		"10.96.0.2:80/TCP ClusterIP default/second -> 10.1.0.2:8080",
	)
	f.restart() // the service that has the frontend keeps it
	if err := f.r.Apply(second); !errors.Is(err, ErrTaken) {
		t.Errorf("after a restart: %v", err)
	}
	f.apply(named("first", "10.96.0.1", to("10.1.0.1")), second)
	f.expectMaps(
		"10.96.0.1:80/TCP ClusterIP default/first -> 10.1.0.1:8080",
		"192.0.2.1:80/TCP ExternalIP default/second -> 10.1.0.2:8080",
		"10.96.0.2:80/TCP ClusterIP default/second -> 10.1.0.2:8080",
	)
	f.expectNoLeak()
}

// A service that is renamed is always there: one write moves the frontend to the other service.
func TestHandOver(t *testing.T) {
	f := newFixture(t, nil)
	older, newer := named("older", "10.96.0.1", to("10.1.0.1")), named("newer", "10.96.0.1", to("10.1.0.1", "10.1.0.2"))
	f.apply(older)
	f.before = func() {
		got := meanings(t, f.maps)[older.Frontends[0].Frontend]
		if got != wanted(older)[older.Frontends[0].Frontend] && got != wanted(newer)[newer.Frontends[0].Frontend] {
			t.Errorf("on the way the frontend was %q", got)
		}
	}
	f.r.Leave([]maps.Name{older.Name, {Name: "never heard of"}})
	f.apply(newer)
	f.must(f.r.Delete(older.Name))
	f.before = nil
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/newer -> 10.1.0.1:8080 10.1.0.2:8080")
	f.expectNoLeak()
}

// A service that was announced to leave, and is wanted again, keeps its frontends.
func TestStay(t *testing.T) {
	f := newFixture(t, nil)
	older, newer := named("older", "10.96.0.1", to("10.1.0.1")), named("newer", "10.96.0.1", to("10.1.0.2"))
	f.apply(older)
	f.r.Leave([]maps.Name{older.Name})
	f.apply(older)
	if err := f.r.Apply(newer); !errors.Is(err, ErrTaken) {
		t.Errorf("got error %v", err)
	}
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/older -> 10.1.0.1:8080")
}

func TestDelete(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1"), at(maps.NodePort, "0.0.0.0")), named("other", "10.96.0.2", to("10.1.0.1")))
	before := f.r.Writes()
	f.must(f.r.Delete(web().Name))
	expectWrites(t, "delete", f.since(before), Writes{Frontends: 2, Backends: 1, Names: 1})
	f.expectMaps("10.96.0.2:80/TCP ClusterIP default/other -> 10.1.0.1:8080")
	f.must(f.r.Delete(web().Name)) // no error, though it isn't there
	f.expectNoLeak()
}
