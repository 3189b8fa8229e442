// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// What changes while traffic flows.
const (
	comingFile = forLive + "/myapp-pod-4.yaml"
	goingPod   = "myapp-pod-2"
)

// step is a change under traffic.
type step struct {
	title string
	// change returns when the change is in force: from then on, new connections must follow it.
	change func() error
	// note tells what the change did to the pods' answers, or "".
	note func(*loops) string
	// after is done when the traffic has been looked at.
	after func() error
	last  bool
}

var liveColumns = columns{
	{"WHEN", 34}, {"ANSWERED BY", 39}, {"REQUESTS", 8}, {"FAILED", 6}, {"RESULT", 0},
}

// checkChanges changes things while clients make one new connection after the other, none of
// which may fail.
func (d *demo) checkChanges(ctx context.Context) error {
	d.heading("Changes, while traffic flows", `Six loops of new TCP connections: from the laptop to both NodePorts of myapp-service, and from a
		pod to its ClusterIP, by IPv4 and IPv6.`)
	l := d.startLoops()
	defer l.stop()
	t := &table{columns: liveColumns}
	defer func() { t.write(d.out) }()
	for _, s := range d.steps() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := d.take(l, s, t); err != nil {
			return err
		}
	}
	return nil
}

// take does a step, and judges what the loops met meanwhile.
func (d *demo) take(l *loops, s step, t *table) error {
	l.changing()
	if err := s.change(); err != nil {
		return err
	}
	want := d.podsOf(webService)
	l.settled()
	l.awaitEnough(len(want))
	if s.last {
		l.stop()
	}
	result := line("ok")
	found, requests, failed := l.judge(want, d.lookUp)
	d.checks++
	d.requests += requests
	if len(found) > 0 {
		d.wrong++
		result = wrong(found)
	}
	when := line(s.title)
	if s.note != nil {
		when = append(when, s.note(l))
	}
	t.add(when, line(strings.Join(l.answerers(), ", ")), line(fmt.Sprint(requests)), line(fmt.Sprint(failed)), result)
	if s.after != nil {
		return s.after()
	}
	return nil
}

func (d *demo) steps() []step {
	var since time.Time
	coming := strings.TrimSuffix(comingFile[len(forLive)+1:], ".yaml")
	agent := d.agents[0]
	return []step{
		{title: "before", change: func() error { return nil }},
		{
			title: coming + ".yaml is added",
			change: func() (err error) {
				since, err = d.admit()
				return err
			},
			note: func(l *loops) string {
				return fmt.Sprintf("  first answer after %d ms", l.firstAnswer(coming).Sub(since).Milliseconds())
			},
		},
		{
			title: goingPod + ".yaml is deleted",
			change: func() (err error) {
				since, err = d.dismiss(goingPod)
				return err
			},
			note: func(l *loops) string {
				return fmt.Sprintf("  last answer after %d ms", max(0, l.lastAnswer(goingPod).Sub(since).Milliseconds()))
			},
			after: d.removeDismissed,
		},
		{title: "agent of node-1 is dead (SIGKILL)", change: func() error { agent.Kill(); return nil }},
		{title: "agent of node-1 is back", change: func() error { return agent.Start() }, last: true},
	}
}

// admit starts the pod that comes later, and adds its manifest. It tells when.
func (d *demo) admit() (time.Time, error) {
	objects, err := readPods(forLive)
	if err != nil {
		return time.Time{}, err
	}
	for _, object := range objects {
		if err := d.addPod(object); err != nil {
			return time.Time{}, err
		}
	}
	now := time.Now()
	if err := d.copyManifest(comingFile); err != nil {
		return now, err
	}
	return now, d.awaitPods(webService)
}

// dismiss takes a pod out of the manifests, and tells when. It goes on to serve what it has, as a
// terminating pod does.
func (d *demo) dismiss(name string) (time.Time, error) {
	i := slices.IndexFunc(d.pods, func(p *place) bool { return p.Name == name })
	d.gone = append(d.gone, d.pods[i])
	d.pods = slices.Delete(d.pods, i, i+1)
	now := time.Now()
	if err := d.manifests.Remove(name + ".yaml"); err != nil {
		return now, err
	}
	return now, d.awaitPods(webService)
}

func (d *demo) removeDismissed() error {
	for _, p := range d.gone {
		if err := p.Node.RemovePod(p.Pod); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) lookUp(pod string) *topo.Node {
	for _, p := range slices.Concat(d.pods, d.gone) {
		if p.Name == pod {
			return p.Node
		}
	}
	return nil
}

// startLoops begins the traffic.
func (d *demo) startLoops() *loops {
	const pause = 10 * time.Millisecond
	l := &loops{first: map[string]time.Time{}, last: map[string]time.Time{}}
	checks := d.nodePorts(webService, false)
	checks = append(checks, d.eachFamily(func(v6 bool) check {
		return check{from: d.askers["client"], to: d.clusterIP(webService, v6), what: "ClusterIP"}
	})...)
	for _, c := range checks {
		loop := &loop{check: c, settled: newTally()}
		l.all = append(l.all, loop)
		l.loads = append(l.loads, topo.StartLoad(1, pause, func(int) topo.Reply { return l.ask(loop) }))
	}
	return l
}
