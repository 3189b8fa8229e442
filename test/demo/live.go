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

// changes are the checks under traffic, for the summary.
var changes = part{what: "Changes, while traffic flows", how: "XDP, tc, socket (each request is a new connection)"}

// step is a change under traffic.
type step struct {
	title string
	// change returns when the change is in force: from then on, new connections must follow it.
	change func() error
	// note measures what the change did to the pods' answers, and returns it for the table.
	note func(*loops) string
	// after runs when the traffic has been judged.
	after func() error
	// requests, if not nil, gets the number of requests.
	requests *int
	last     bool
}

var liveColumns = columns{
	{"WHEN", 34}, {"ANSWERED BY", 39}, {"REQUESTS", 8}, {"FAILED", 6}, {"RESULT", 0},
}

// checkChanges changes things while clients make one new connection after the other, none of
// which may fail.
func (d *demo) checkChanges(ctx context.Context) error {
	d.heading(changes.what, `Six loops of new TCP connections: from the laptop to both NodePorts of myapp-service, and from a
		pod to its ClusterIP, by IPv4 and IPv6.`)
	l := d.startLoops()
	defer l.stop()
	t := &table{columns: liveColumns}
	defer func() { d.write(t) }()
	d.summary.parts = append(d.summary.parts, changes)
	for _, s := range d.steps() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.progress("%s ...", s.title)
		if err := d.take(l, s, t); err != nil {
			return err
		}
	}
	return nil
}

// take does a step, and judges the answers that the loops got meanwhile.
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
	p := &d.summary.parts[len(d.summary.parts)-1]
	p.checks++
	p.requests += requests
	if s.requests != nil {
		*s.requests = requests
	}
	if len(found) > 0 {
		p.wrong++
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
	agent, figures := d.agents[0], &d.summary.figures
	return []step{
		{title: "before", change: func() error { return nil }},
		{
			title: coming + ".yaml is added",
			change: func() (err error) {
				since, err = d.admit()
				return err
			},
			note: func(l *loops) string {
				figures.firstAnswer = l.firstAnswer(coming).Sub(since)
				return "  first answer after " + milliseconds(figures.firstAnswer)
			},
		},
		{
			title: goingPod + ".yaml is deleted",
			change: func() (err error) {
				since, err = d.dismiss(goingPod)
				return err
			},
			note: func(l *loops) string {
				figures.lastAnswer = l.lastAnswer(goingPod).Sub(since)
				return "  last answer after " + milliseconds(figures.lastAnswer)
			},
			after: d.removeDismissed,
		},
		{title: "agent of node-1 is dead (SIGKILL)", change: func() error { agent.Kill(); return nil }, requests: &figures.withoutAgent},
		{title: "agent of node-1 is back", change: func() error { return agent.Start() }, last: true},
	}
}

// admit starts the pod that comes later, adds its manifest, and returns the time of that.
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

// dismiss removes a pod from the manifests, and returns the time of that. The pod still serves its connections, as a
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
