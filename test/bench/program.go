// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
)

const programEndpoints = 10 // of each service

func measureProgramming(o options) (results []Result, err error) {
	memory, peers := []int{1000, 10000, 50000}, map[string][]int{"nftables": {1000, 10000}, "iptables": {1000}}
	if o.quick {
		memory, peers = []int{100, 1000}, map[string][]int{"nftables": {100}, "iptables": {100}}
	}
	for _, n := range memory {
		got, err := programFromMemory(o, n)
		if err != nil {
			return nil, fmt.Errorf("%d services: %w", n, err)
		}
		results = append(results, got...)
	}
	for _, n := range memory[:2] {
		got, err := programAgents(o, n, peers)
		if err != nil {
			return nil, fmt.Errorf("%d services: %w", n, err)
		}
		results = append(results, got...)
	}
	return results, nil
}

// newMaps makes the datapath's maps without its programs, with room for so many services.
func newMaps(services int) (provider, error) {
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	clear(spec.Programs)
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		switch {
		case strings.HasPrefix(name, "flows"):
			m.MaxEntries = 1024
		case name == "slots" || name == "backends":
			m.MaxEntries = max(m.MaxEntries, uint32(4*services*programEndpoints))
		}
	}
	made, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	return made.Maps, nil
}

// memoryRig is a proxy whose source is the benchmark.
type memoryRig struct {
	*control.Proxy
	maps   provider
	synced chan struct{}
	stop   func()
}

func newMemoryRig(services int) (*memoryRig, error) {
	made, err := newMaps(services)
	if err != nil {
		return nil, err
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	entry := logrus.NewEntry(log)
	r, err := reconcile.New(made, entry)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	rig := &memoryRig{maps: made, synced: make(chan struct{}, 1)}
	rig.Proxy = control.NewProxy("here", r, func(*corev1.Node) {}, func() {
		select {
		case rig.synced <- struct{}{}:
		default:
		}
	}, entry)
	go func() {
		defer close(done)
		rig.Run(ctx)
	}()
	rig.stop = func() {
		cancel()
		<-done
		for _, m := range made {
			m.Close()
		}
	}
	return rig, nil
}

func processTime() (time.Duration, error) {
	var usage unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}

// programFromMemory measures the time from objects in memory until maps hold them, and then from an
// event until maps follow it.
func programFromMemory(o options, n int) ([]Result, error) {
	services, slices := programObjects(n)
	var walls, cpus, events []float64
	for range min(o.runs, 3) {
		rig, err := newMemoryRig(n)
		if err != nil {
			return nil, err
		}
		before, err := processTime()
		if err != nil {
			return nil, err
		}
		started := time.Now()
		if err := rig.program(services, slices); err != nil {
			return nil, err
		}
		walls = append(walls, time.Since(started).Seconds())
		after, err := processTime()
		if err != nil {
			return nil, err
		}
		cpus = append(cpus, (after - before).Seconds())
		waits, err := rig.eventTimes(slices, 50)
		rig.stop()
		if err != nil {
			return nil, err
		}
		events = append(events, waits...)
	}
	name := fmt.Sprintf("%d x %d", n, programEndpoints)
	return []Result{
		{Metric: "from memory to maps, " + name, Unit: "s", Waggle: median(walls), Runs: walls},
		{Metric: "processor time of it, " + name, Unit: "s", Waggle: median(cpus), Runs: cpus},
		{Metric: "event to maps p50, " + name, Unit: "ms", Waggle: quantile(events, 0.5), Runs: events},
		{Metric: "event to maps p99, " + name, Unit: "ms", Waggle: quantile(events, 0.99), Runs: events},
	}, nil
}

func programObjects(n int) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	for i := range n {
		services = append(services, serviceObject(i, corev1.ProtocolTCP))
		slices = append(slices, sliceObject(i, corev1.ProtocolTCP, "elsewhere", fillerEndpoints(i, programEndpoints)...))
	}
	return services, slices
}

// program passes objects to the proxy, and waits until the maps have them.
func (r *memoryRig) program(services []*corev1.Service, slices []*discoveryv1.EndpointSlice) error {
	for i := range services {
		r.OnService(nil, services[i])
		r.OnEndpointSlice(nil, slices[i])
	}
	r.OnSynced()
	for r.Status().Services < len(services) {
		<-r.synced
	}
	if failures := r.Status().Failures; len(failures) > 0 {
		return fmt.Errorf("%d services failed, as %s", len(failures), failures[0])
	}
	return nil
}

// eventTimes changes the endpoints of one service after the other, and measures, in milliseconds,
// the time until a packet to the service would go to the new ones.
func (r *memoryRig) eventTimes(slices []*discoveryv1.EndpointSlice, times int) (waits []float64, err error) {
	for i := range times {
		service := i * len(slices) / times
		to := offset4(10, 250, 0, i)
		changed := sliceObject(service, corev1.ProtocolTCP, "elsewhere", to)
		started := time.Now()
		r.OnEndpointSlice(slices[service], changed)
		for {
			led, err := r.leadsTo(serviceAddr(service), to)
			if err != nil {
				return nil, err
			}
			if led {
				break
			}
			if time.Since(started) > 5*time.Minute { // a repair of all maps may be under way
				return nil, fmt.Errorf("%s never led to its new endpoint", serviceName(service))
			}
		}
		waits = append(waits, float64(time.Since(started).Microseconds())/1000)
		r.OnEndpointSlice(changed, slices[service]) // back to the earlier state, for the next measurement
		for back := false; !back; {
			if back, err = r.leadsTo(serviceAddr(service), endpointAddr(service*programEndpoints)); err != nil {
				return nil, err
			}
		}
	}
	return waits, nil
}

// leadsTo looks up what the programs do: frontend, slot, backend.
func (r *memoryRig) leadsTo(frontend, endpoint netip.Addr) (bool, error) {
	var svc bpf.Service
	key := bpf.ServiceKey4{Addr: word(frontend), Port: netPort(servicePort), Proto: unix.IPPROTO_TCP}
	if err := r.maps.Map("services4").Lookup(key, &svc); err != nil {
		return false, err
	}
	if svc.Internal.Count == 0 {
		return false, nil
	}
	for slot := range svc.Internal.Count {
		var id uint32
		var backend bpf.Backend
		if err := r.maps.Map("slots").Lookup(svc.Internal.First+slot, &id); err != nil {
			return false, err
		}
		if err := r.maps.Map("backends").Lookup(id, &backend); err != nil {
			return false, err
		}
		if backend.Addr[0] == binary.NativeEndian.Uint32(endpoint.AsSlice()) {
			return true, nil
		}
	}
	return false, nil
}

// programAgents measures whole processes, which get the same objects from the same store.
func programAgents(o options, n int, peers map[string][]int) (results []Result, err error) {
	f, err := newFabric(o, 3)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	f.fill(0, n, programEndpoints, corev1.ProtocolTCP)
	name := fmt.Sprintf("%d x %d", n, programEndpoints)
	started := time.Now()
	agent, err := f.startWaggle(f.Nodes[0], "--xdp=off")
	if err != nil {
		return nil, err
	}
	if err := agent.Await("all services", func(s *status.Status) bool { return s.Proxy.Services == n }); err != nil {
		return nil, err
	}
	wall := time.Since(started).Seconds()
	used, err := usageOf(agent.Pid())
	if err != nil {
		return nil, err
	}
	first := Result{Metric: "process start to all in force, " + name, Unit: "s", Waggle: wall, Peers: map[string]float64{}}
	cpu := Result{Metric: "processor time of it, whole process, " + name, Unit: "s", Waggle: used.cpu.Seconds(), Peers: map[string]float64{}}
	rss := Result{Metric: "resident memory, " + name, Unit: "MB", Waggle: used.rss / 1e6, Peers: map[string]float64{}}
	peak := Result{Metric: "peak of resident memory, " + name, Unit: "MB", Waggle: used.peak / 1e6, Peers: map[string]float64{}}
	for i, mode := range []string{"nftables", "iptables"} {
		if !f.havePeers() || len(peers[mode]) == 0 || n > peers[mode][len(peers[mode])-1] {
			continue
		}
		if err := f.programPeer(i+1, mode, []*Result{&first, &cpu, &rss, &peak}); err != nil {
			return nil, fmt.Errorf("%s: %w", mode, err)
		}
	}
	results = []Result{first, cpu, rss, peak}
	for i := range results {
		results[i].Runs = []float64{results[i].Waggle}
	}
	return results, nil
}

func (f *fabric) programPeer(node int, mode string, results []*Result) error {
	started := time.Now()
	k, err := f.startKubeProxy(f.Nodes[node], mode)
	if err != nil {
		return err
	}
	if err := k.firstSync(); err != nil {
		return err
	}
	wall := time.Since(started).Seconds()
	used, err := usageOf(k.cmd.Process.Pid)
	if err != nil {
		return err
	}
	for i, value := range []float64{wall, used.cpu.Seconds(), used.rss / 1e6, used.peak / 1e6} {
		results[i].Peers[mode] = value
	}
	return nil
}
