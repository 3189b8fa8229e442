// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// startSubject is a proxy whose start is measured, on one node of each turn's network.
type startSubject struct {
	name          string
	start         func(f *fabric, node *topo.Node) (pid int, end func(), err error)
	walls         []float64 // seconds
	cpus          []float64 // seconds
	restedCPUs    []float64 // seconds
	resident, top []float64 // MB
}

// startRest is how long after its start a proxy's resident memory is read: by then waggle has loaded the rest of its
// programs, and released the memory that this and the first sync needed.
const startRest = 3 * time.Second

// measureStart measures the start of agents on a small cluster, and on a large one. Every turn has a network of its own,
// so that each proxy starts on a node where none has run.
func measureStart(o options) (results []Result, err error) {
	sizes := []int{0, 1000, 10_000}
	if o.quick {
		sizes = []int{100}
	}
	for _, services := range sizes {
		times := o.runs
		if services == 10_000 { // in which kube-proxy takes a quarter of a minute
			times = min(times, 3)
		}
		got, err := startTurns(o, services, times)
		if err != nil {
			return nil, fmt.Errorf("%d services: %w", services, err)
		}
		results = append(results, got...)
	}
	return results, nil
}

func startTurns(o options, services, times int) ([]Result, error) {
	subjects := []*startSubject{{name: "waggle", start: startOf("", services)}}
	if o.before != "" {
		subjects = append(subjects, &startSubject{name: "before", start: startOf(o.before, services)})
	}
	if services > 0 && o.havePeers() {
		subjects = append(subjects, &startSubject{name: "nftables", start: startOfPeer("nftables")})
	}
	for turn := range times + 1 { // the first time is discarded
		if err := startTurn(o, services, subjects, turn > 0); err != nil {
			return nil, err
		}
	}
	return startResults(subjects, services), nil
}

// startTurn starts each proxy once, one after the other.
func startTurn(o options, services int, subjects []*startSubject, counts bool) (err error) {
	f, err := newFabric(o, len(subjects))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	f.fill(0, services, programEndpoints, corev1.ProtocolTCP)
	for i, s := range subjects {
		if err := s.measure(f, f.Nodes[i], counts); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (s *startSubject) measure(f *fabric, node *topo.Node, counts bool) error {
	started := time.Now()
	pid, end, err := s.start(f, node)
	if err != nil {
		return err
	}
	defer end()
	wall := time.Since(started).Seconds()
	used, err := usageOf(pid)
	if err != nil {
		return err
	}
	time.Sleep(startRest)
	rested, err := usageOf(pid)
	if err != nil || !counts {
		return err
	}
	s.walls = append(s.walls, wall)
	s.cpus = append(s.cpus, used.cpu.Seconds())
	s.restedCPUs = append(s.restedCPUs, rested.cpu.Seconds())
	s.resident = append(s.resident, rested.rss/1e6)
	s.top = append(s.top, rested.peak/1e6)
	return nil
}

// startOf starts an agent of a build of the command; "" is the measured one.
func startOf(build string, services int) func(*fabric, *topo.Node) (int, func(), error) {
	return func(f *fabric, node *topo.Node) (int, func(), error) {
		agent, err := f.startBuild(build, node, "--xdp=off")
		if err != nil {
			return 0, nil, err
		}
		done := func(s *status.Status) bool { return s.Proxy.Services == services && len(s.Devices) > 0 }
		return agent.Pid(), agent.Kill, agent.Await("all services", done)
	}
}

func startOfPeer(mode string) func(*fabric, *topo.Node) (int, func(), error) {
	return func(f *fabric, node *topo.Node) (int, func(), error) {
		k, err := f.startKubeProxy(node, mode)
		if err != nil {
			return 0, nil, err
		}
		return k.cmd.Process.Pid, func() { _ = k.cmd.Stop(10 * time.Second) }, k.firstSync()
	}
}

func startResults(subjects []*startSubject, services int) (results []Result) {
	name := fmt.Sprintf("%d x %d", services, programEndpoints)
	for _, line := range []struct {
		metric, unit string
		of           func(*startSubject) []float64
	}{
		{"start to all in force", "s", func(s *startSubject) []float64 { return s.walls }},
		{"processor time of it, whole process", "s", func(s *startSubject) []float64 { return s.cpus }},
		{"the same, 3 s later", "s", func(s *startSubject) []float64 { return s.restedCPUs }},
		{"resident memory, 3 s later", "MB", func(s *startSubject) []float64 { return s.resident }},
		{"resident memory at its peak", "MB", func(s *startSubject) []float64 { return s.top }},
	} {
		r := Result{Metric: line.metric + ", " + name, Unit: line.unit, Peers: map[string]float64{}}
		r.Waggle, r.Runs = median(line.of(subjects[0])), line.of(subjects[0])
		for _, s := range subjects[1:] {
			r.Peers[s.name] = median(line.of(s))
		}
		results = append(results, r)
	}
	return results
}
