// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/plan"
	wmaps "github.com/waggle-lb/waggle/maps"
)

// churn is a random series of changes of some services, with the wanted state at each moment.
type churn struct {
	*fixture
	random *rand.Rand
	want   map[wmaps.Name]plan.Service
}

// After any series of changes the maps hold what a fresh reconciler would write. At each moment
// each frontend is in its old or its new state, and nothing leaks.
func TestChurn(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &churn{newFixture(t, nil), rand.New(rand.NewPCG(seed, 3)), map[wmaps.Name]plan.Service{}}
			for range 100 {
				c.step()
			}
			fresh := newFixture(t, nil)
			for _, svc := range c.want {
				fresh.apply(svc)
			}
			if diff := gocmp.Diff(meaning(t, fresh.maps), meaning(t, c.maps)); diff != "" {
				t.Errorf("not what a fresh reconciler writes (-fresh +got):\n%s", diff)
			}
			c.rest()
			c.expectNoLeak()
		})
	}
}

func (c *churn) step() {
	c.ahead += time.Duration(c.random.IntN(800)) * time.Millisecond
	switch c.random.IntN(12) {
	case 0:
		c.restart()
	case 1:
		c.r.Collect()
	case 2:
		for name := range c.want {
			c.watch(name, plan.Service{})
			c.must(c.r.Delete(name))
			delete(c.want, name)
			break
		}
	default:
		svc := c.randomService()
		c.watch(svc.Name, svc)
		c.must(c.r.Apply(svc))
		c.want[svc.Name] = svc
	}
	c.before = nil
	if got, want := meanings(c.t, c.maps), c.wanted(); !maps.Equal(got, want) {
		c.t.Fatalf("after a step (-want +got):\n%s", gocmp.Diff(want, got))
	}
	c.expectAgreement()
}

func (c *churn) wanted() map[wmaps.Frontend]string {
	all := map[wmaps.Frontend]string{}
	for _, svc := range c.want {
		maps.Copy(all, wanted(svc))
	}
	return all
}

// watch checks, at each access to the services maps, that each frontend is in its old or in its new
// state. Frontends of other services must not change at all. Whether an endpoint is local doesn't
// count: that is written in place.
func (c *churn) watch(name wmaps.Name, next plan.Service) {
	was := c.wanted()
	will := wanted(next)
	old := wanted(c.want[name])
	c.before = func() {
		got := meanings(c.t, c.maps)
		for f := range was {
			_, changes := old[f]
			now := addresses(got[f])
			if now != addresses(was[f]) && (!changes || now != addresses(will[f])) {
				c.t.Fatalf("%s: on the way it is %q; it was %q and will be %q", f, got[f], was[f], will[f])
			}
		}
	}
}

func addresses(meaning string) string { return strings.ReplaceAll(meaning, "*", "") }

// randomService makes a plan of one of few services, so that plans meet again and again.
func (c *churn) randomService() plan.Service {
	n, family := c.random.IntN(6), wmaps.Families[c.random.IntN(2)]
	svc := plan.Service{
		Name:     wmaps.Name{Namespace: "default", Name: fmt.Sprint("s", n), Proto: unix.IPPROTO_TCP, Family: family},
		Affinity: uint32(c.random.IntN(2)),
	}
	for i := range c.random.IntN(8) {
		e := plan.Endpoint{Addr: host(family, 1, i), Port: uint16(8080 + c.random.IntN(2)), Local: c.random.IntN(3) == 0}
		svc.Endpoints[plan.Cluster] = append(svc.Endpoints[plan.Cluster], e)
		if e.Local {
			svc.Endpoints[plan.Local] = append(svc.Endpoints[plan.Local], e)
		}
	}
	kinds := []wmaps.Kind{wmaps.ClusterIP, wmaps.ExternalIP, wmaps.LoadBalancer, wmaps.NodePort}
	c.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	for _, kind := range kinds[:1+c.random.IntN(len(kinds))] {
		svc.Frontends = append(svc.Frontends, plan.Frontend{
			Frontend: wmaps.Frontend{Addr: host(family, 96+n, int(kind)), Port: 80, Proto: unix.IPPROTO_TCP},
			Kind:     kind,
			External: c.randomScope(svc),
			Internal: c.randomScope(svc),
		})
		if kind == wmaps.LoadBalancer && c.random.IntN(2) == 0 {
			svc.Frontends[len(svc.Frontends)-1].Guarded = true
			for i := range 1 + c.random.IntN(3) {
				client := host(family, 200, i)
				svc.SourceRanges = append(svc.SourceRanges, netip.PrefixFrom(client, client.BitLen()))
			}
		}
	}
	return svc
}

func (c *churn) randomScope(svc plan.Service) plan.Scope {
	s := plan.Scope{Set: plan.Set(c.random.IntN(2))}
	s.Drop = s.Set == plan.Local && len(svc.Endpoints[plan.Local]) == 0 && c.random.IntN(2) == 0
	return s
}

func host(f wmaps.Family, net, n int) netip.Addr {
	b := []byte{10, byte(net), 0, byte(n + 1)}
	if f == wmaps.IPv6 {
		b = slices.Concat([]byte{0xfd, 0}, make([]byte, 10), b)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
