// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// What an agent's processor time may be at most.
const (
	aimIdle    = 0.3 // per cent of a CPU
	aimChanges = 3.0
	aimPod     = 10.0 // milliseconds
)

// agentLoad is a node with many pods, and an agent on it.
type agentLoad struct {
	*churned
	agent *cluster.Agent
	pods  []*topo.Pod
	idle  float64 // seconds of processor time in a second
}

// agentSizes are how much there is, and how long it is looked at.
type agentSizes struct {
	pods, services, rate, moved int
	rest, window, each          time.Duration
}

// measureAgentTime measures the processor time of an agent by what changes on its node: nothing, services,
// pods. A minute holds all that it does once in a while.
func measureAgentTime(o options) (results []Result, err error) {
	size := agentSizes{pods: 250, services: 1000, rate: 12, moved: 20, rest: 20 * time.Second, window: time.Minute, each: 3 * time.Second}
	if o.quick {
		size.pods, size.services, size.moved = 50, 200, 5
		size.rest, size.window = 5*time.Second, 15*time.Second
	}
	f, err := newFabric(o, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := f.newAgentLoad(size)
	if err != nil {
		return nil, err
	}
	time.Sleep(size.rest)
	idle, err := l.during(size.window, func() error { return nil })
	if err != nil {
		return nil, err
	}
	l.idle = idle
	stop := l.churn(time.Second / time.Duration(size.rate))
	changes, err := l.during(size.window, func() error { return nil })
	stop()
	if err != nil {
		return nil, err
	}
	gone, err := l.eachPod(size, l.removePod)
	if err != nil {
		return nil, err
	}
	added, err := l.eachPod(size, l.addPod)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d pods, %d services", size.pods, size.services)
	return []Result{
		{Metric: "nothing changes, " + name, Unit: "% of a CPU", Waggle: 100 * idle, Limit: aimIdle, Runs: []float64{100 * idle}},
		{Metric: fmt.Sprintf("%d services change a second, %s", size.rate, name), Unit: "% of a CPU", Waggle: 100 * changes, Limit: aimChanges, Runs: []float64{100 * changes}},
		{Metric: "a new pod, beside " + name, Unit: "ms", Waggle: median(added), Limit: aimPod, Runs: added},
		{Metric: "a pod that goes, beside " + name, Unit: "ms", Waggle: median(gone), Limit: aimPod, Runs: gone},
	}, nil
}

// newAgentLoad makes the pods, with a process in each, and starts the agent.
func (f *fabric) newAgentLoad(size agentSizes) (*agentLoad, error) {
	node := f.Nodes[0]
	l := &agentLoad{churned: &churned{store: f.store, node: node, services: size.services}}
	for range size.pods {
		if err := l.addPod(); err != nil {
			return nil, err
		}
	}
	f.store.Put(fillers(0, size.services, programEndpoints, corev1.ProtocolTCP)...)
	var err error
	if l.agent, err = f.startWaggle(node, "--xdp=off"); err != nil {
		return nil, err
	}
	return l, l.agent.Await("all services and devices", func(s *status.Status) bool {
		return s.Proxy.Services == size.services && len(s.Devices) > size.pods
	})
}

func (l *agentLoad) addPod() error {
	number := len(l.pods)
	pod, err := l.node.AddPod(fmt.Sprintf("pod-%d", number), topo.PodOptions{Number: number + 2})
	if err != nil {
		return err
	}
	l.pods = append(l.pods, pod)
	return pod.Command("sleep", "infinity").Start() // by which its namespace is found
}

func (l *agentLoad) removePod() error {
	last := len(l.pods) - 1
	pod := l.pods[last]
	l.pods = l.pods[:last]
	return l.node.RemovePod(pod)
}

// during returns the agent's processor time in a second while something is done, for at least so long.
func (l *agentLoad) during(window time.Duration, do func() error) (float64, error) {
	before, err := processorTime(l.agent.Pid())
	if err != nil {
		return 0, err
	}
	started := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	time.Sleep(window - time.Since(started))
	after, err := processorTime(l.agent.Pid())
	return (after - before).Seconds() / time.Since(started).Seconds(), err
}

// eachPod returns, for each of some pods that come or go, the milliseconds beyond those of a rest as long.
func (l *agentLoad) eachPod(size agentSizes, do func() error) (ms []float64, err error) {
	for range size.moved {
		share, err := l.during(size.each, do)
		if err != nil {
			return nil, err
		}
		ms = append(ms, 1000*(share-l.idle)*size.each.Seconds())
	}
	return ms, nil
}

// processorTime is what a process has used so far, by its clock (MAKE_PROCESS_CPUCLOCK of
// linux/posix-timers.h), which counts nanoseconds.
func processorTime(pid int) (time.Duration, error) {
	const scheduled = 2
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduled), &ts)
	return time.Duration(ts.Nano()), err
}
