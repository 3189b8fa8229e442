// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

// crowd is many services with ten endpoints each.
type crowd struct {
	services []*v1.Service
	slices   []*discovery.EndpointSlice
}

func newCrowd(n int) (c crowd) {
	for i := range n {
		name := fmt.Sprintf("svc-%05d", i)
		c.services = append(c.services, serviceObject(name, numbered("10.96.0.1", i)))
		var endpoints []string
		for e := range 10 {
			endpoints = append(endpoints, numbered("10.128.0.1", 10*i+e))
		}
		c.slices = append(c.slices, sliceObject(name, endpoints...))
	}
	return c
}

// numbered is the address that comes so many after the first.
func numbered(first string, i int) string {
	a := netip.MustParseAddr(first).As4()
	n := uint32(a[1])<<16 + uint32(a[2])<<8 + uint32(a[3]) + uint32(i)
	return netip.AddrFrom4([4]byte{a[0], byte(n >> 16), byte(n >> 8), byte(n)}).String()
}

// proxy makes a Proxy that has received all objects, and has written nothing yet.
func (c crowd) proxy(b *testing.B) *Proxy {
	log := logrus.New()
	log.SetOutput(io.Discard)
	n := uint32(len(c.services))
	made := mapstest.New(b, map[string]uint32{
		"services4": 2 * n, "service_names": 2 * n, "cluster_addrs": 2 * n,
		"backends": 1 << 20, "slots": 1 << 21, // with room for what rests after its removal
	})
	r, err := reconcile.New(made, logrus.NewEntry(log))
	if err != nil {
		b.Fatal(err)
	}
	p := NewProxy(thisNode, r, func(*v1.Node) {}, func() {}, logrus.NewEntry(log))
	for i := range c.services {
		p.OnService(nil, c.services[i])
		p.OnEndpointSlice(nil, c.slices[i])
	}
	p.OnSynced()
	return p
}

func (c crowd) name() string { return fmt.Sprintf("%d services", len(c.services)) }

func expectNoFailures(b *testing.B, p *Proxy) {
	if failures := p.Status().Failures; len(failures) > 0 {
		b.Fatal(failures[0])
	}
}

// reportProcessor reports the processor time of a run of the benchmark, which others on the machine
// don't change, in milliseconds. The garbage collector's is in it.
func reportProcessor(b *testing.B) {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	b.Cleanup(func() { b.ReportMetric(float64((used()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op") })
}

var crowds = []int{1000, 10000, 50000}

// BenchmarkFirstSync is from objects in memory to maps that hold them.
func BenchmarkFirstSync(b *testing.B) {
	for _, n := range crowds {
		c := newCrowd(n)
		b.Run(c.name(), func(b *testing.B) {
			reportProcessor(b)
			for b.Loop() {
				p := c.proxy(b)
				p.sync()
				expectNoFailures(b, p)
			}
		})
	}
}

// BenchmarkEvent is one change of a service's endpoints among many services.
func BenchmarkEvent(b *testing.B) {
	for _, n := range crowds {
		c := newCrowd(n)
		b.Run(c.name(), func(b *testing.B) {
			p := c.proxy(b)
			p.sync()
			old, new := c.slices[n/2], sliceObject(c.services[n/2].Name, "10.250.0.1")
			reportProcessor(b)
			for b.Loop() {
				p.OnEndpointSlice(old, new)
				p.sync()
				old, new = new, old
			}
			expectNoFailures(b, p)
		})
	}
}

// BenchmarkRepair is a look at all maps, of which none has changed.
func BenchmarkRepair(b *testing.B) {
	for _, n := range crowds {
		c := newCrowd(n)
		b.Run(c.name(), func(b *testing.B) {
			p := c.proxy(b)
			p.sync()
			reportProcessor(b)
			for b.Loop() {
				p.repair(context.Background())
			}
		})
	}
}
