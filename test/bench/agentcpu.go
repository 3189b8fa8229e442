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

// The aims for an agent's processor time.
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
}

// agentLoads are the nodes of a run, one for each build.
type agentLoads []*agentLoad

// agentSizes are the numbers of objects, and the durations of the measurements.
type agentSizes struct {
	pods, services, rate, moved int
	rest, window, each          time.Duration
}

// measureAgentTime measures the processor time of an agent by what changes on its node: nothing, services, pods. A
// window of a minute contains all periodic work. With another build of the command there are two nodes with equal
// load: a window is measured on both at once, and pods come and go on each in turns.
func measureAgentTime(o options) (results []Result, err error) {
	size := agentSizes{pods: 250, services: 1000, rate: 12, moved: 20, rest: 20 * time.Second, window: time.Minute, each: 3 * time.Second}
	if o.quick {
		size.pods, size.services, size.moved = 50, 200, 5
		size.rest, size.window = 5*time.Second, 15*time.Second
	}
	builds := []string{""}
	if o.before != "" {
		builds, size.moved, size.each = append(builds, o.before), size.moved/2, 5*size.each/6
	}
	f, err := newFabric(o, len(builds))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var loads agentLoads
	for i, build := range builds {
		l, err := f.newAgentLoad(f.Nodes[i], build, size)
		if err != nil {
			return nil, err
		}
		loads = append(loads, l)
	}
	time.Sleep(size.rest)
	idle, err := loads.during(size.window)
	if err != nil {
		return nil, err
	}
	stop := loads[0].churn(time.Second / time.Duration(size.rate)) // the objects are the same on all nodes
	changes, err := loads.during(size.window)
	stop()
	if err != nil {
		return nil, err
	}
	gone, err := loads.eachPod(size, idle, (*agentLoad).removePod)
	if err != nil {
		return nil, err
	}
	added, err := loads.eachPod(size, idle, (*agentLoad).addPod)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d pods, %d services", size.pods, size.services)
	return []Result{
		agentResult("nothing changes, "+name, "% of a CPU", aimIdle, idle),
		agentResult(fmt.Sprintf("%d services change a second, %s", size.rate, name), "% of a CPU", aimChanges, changes),
		agentResult("a new pod, beside "+name, "ms", aimPod, added),
		agentResult("a pod that goes, beside "+name, "ms", aimPod, gone),
	}, nil
}

// agentResult is a line of the table, from the values of each build.
func agentResult(metric, unit string, aim float64, of [][]float64) Result {
	r := Result{Metric: metric, Unit: unit, Waggle: median(of[0]), Limit: aim, Runs: of[0]}
	if len(of) > 1 {
		r.Peers = map[string]float64{"before": median(of[1])}
	}
	return r
}

// newAgentLoad makes the pods, with a process in each, and starts the agent.
func (f *fabric) newAgentLoad(node *topo.Node, build string, size agentSizes) (*agentLoad, error) {
	l := &agentLoad{churned: &churned{store: f.store, node: node, services: size.services}}
	for range size.pods {
		if err := l.addPod(); err != nil {
			return nil, err
		}
	}
	f.store.Put(fillers(0, size.services, programEndpoints, corev1.ProtocolTCP)...)
	var err error
	if l.agent, err = f.startBuild(build, node, "--xdp=off"); err != nil {
		return nil, err
	}
	return l, l.agent.Await("all services and devices", func(s *status.Status) bool {
		return s.Proxy.Services == size.services && len(s.Devices) > size.pods
	})
}

func (l *agentLoad) addPod() error {
	number := len(l.pods)
	pod, err := l.node.AddPod(fmt.Sprintf("%s-%d", l.node.Name, number), topo.PodOptions{Number: number + 2})
	if err != nil {
		return err
	}
	l.pods = append(l.pods, pod)
	return pod.Command("sleep", "infinity").Start() // the agent finds the namespace by this process
}

func (l *agentLoad) removePod() error {
	last := len(l.pods) - 1
	pod := l.pods[last]
	l.pods = l.pods[:last]
	return l.node.RemovePod(pod)
}

// during returns the processor time of each agent in a window, in per cent of a CPU.
func (all agentLoads) during(window time.Duration) (shares [][]float64, err error) {
	var before []time.Duration
	for _, l := range all {
		used, err := processorTime(l.agent.Pid())
		if err != nil {
			return nil, err
		}
		before = append(before, used)
	}
	started := time.Now()
	time.Sleep(window)
	for i, l := range all {
		used, err := processorTime(l.agent.Pid())
		if err != nil {
			return nil, err
		}
		shares = append(shares, []float64{100 * (used - before[i]).Seconds() / time.Since(started).Seconds()})
	}
	return shares, nil
}

// eachPod returns for each agent the processor time for a pod that comes or goes on its node, in milliseconds,
// without that of an equally long rest.
func (all agentLoads) eachPod(size agentSizes, idle [][]float64, do func(*agentLoad) error) ([][]float64, error) {
	ms := make([][]float64, len(all))
	for range size.moved {
		for i, l := range all {
			before, err := processorTime(l.agent.Pid())
			if err != nil {
				return nil, err
			}
			started := time.Now()
			if err := do(l); err != nil {
				return nil, err
			}
			time.Sleep(size.each - time.Since(started))
			used, err := processorTime(l.agent.Pid())
			if err != nil {
				return nil, err
			}
			rest := idle[i][0] / 100 * time.Since(started).Seconds()
			ms[i] = append(ms[i], 1000*((used-before).Seconds()-rest))
		}
	}
	return ms, nil
}

// processorTime returns the processor time that a process has used so far, by its clock (MAKE_PROCESS_CPUCLOCK of
// linux/posix-timers.h), which counts nanoseconds.
func processorTime(pid int) (time.Duration, error) {
	const scheduled = 2
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduled), &ts)
	return time.Duration(ts.Nano()), err
}
