// SPDX-License-Identifier: Apache-2.0

// Package assign gives Services of a cluster addresses of pools, as package pools plans it. Each agent follows the
// documents; one of them, which holds a Lease, writes the statuses of the Services.
//
// It writes nothing while another controller that gives addresses runs: the controller of MetalLB, or Cilium's operator
// where there are pools of Cilium's.
package assign

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// Options say whose addresses to give, and who gives them.
type Options struct {
	NodeName string
	// Namespace is that of the Lease.
	Namespace string
	Classes   pools.Classes
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	// Recorder takes events on Services.
	Recorder events.EventRecorder
	Log      *logrus.Entry
}

// LeaseName is the name of the Lease.
const LeaseName = "waggle-addresses"

// pace is how long things take.
type pace struct {
	settle       time.Duration // after a change, before a plan is made
	retry        time.Duration // of what has failed
	look         time.Duration // between looks for other controllers, and for kinds that are not served yet
	idleLook     time.Duration // the same for kinds, of an agent that writes nothing
	request      time.Duration // that one request may take
	lease, renew time.Duration // after which others may take the Lease, and before which it must be renewed
	poll         time.Duration // between two looks at the Lease
}

// Many agents look at the Lease, hence its long intervals: who waits for an address waits a minute at most when the agent
// dies that gives them, and none that was given depends on it.
var defaultPace = pace{
	settle: 100 * time.Millisecond, retry: 5 * time.Second, look: 10 * time.Second, idleLook: time.Minute,
	request: 10 * time.Second, lease: 30 * time.Second, renew: 20 * time.Second, poll: 10 * time.Second,
}

// Assigner is the part of one agent.
type Assigner struct {
	opts      Options
	pace      pace
	documents *documents
	problems  *problems

	mu      sync.Mutex
	leader  string // node that gives the addresses; empty: not known
	leading bool
	others  string // other controllers that run, for people; empty: none

	announcing map[string]string // by which other programs addresses are announced from this node
	looked     bool              // for these
	notify     func()            // something that announcing depends on has changed
}

// New makes an Assigner. It sends no request yet.
func New(opts Options) *Assigner {
	a := &Assigner{opts: opts, pace: defaultPace, problems: newProblems(opts.Log)}
	a.documents = newDocuments(opts.Client, opts.Dynamic, a.problems, a.lookEvery, a.changed)
	return a
}

// Run works until ctx is done.
func (a *Assigner) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { a.documents.run(ctx) })
	wg.Go(func() { a.elect(ctx) })
	wg.Go(func() { a.watchSpeakers(ctx) })
	wg.Wait()
}

// Notify has a function called whenever what Pools or Announcing return may have changed. Call it before Run.
func (a *Assigner) Notify(changed func()) { a.notify = changed }

func (a *Assigner) changed() {
	if a.notify != nil {
		a.notify()
	}
}

// Pools is what the documents say; an empty set while it is not known.
func (a *Assigner) Pools() *pools.Set { return a.documents.set() }

// Problems lists what is wrong with the documents and, where this agent gives the addresses, what Services wait for.
func (a *Assigner) Problems() []status.Problem {
	a.problems.set(ownerDocuments, a.documents.set().Problems)
	return a.problems.list()
}

// Notices say who gives the addresses, or why none does.
func (a *Assigner) Notices() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.others != "":
		return []string{"addresses of pools: none is given while " + a.others}
	case a.leading:
		return []string{"addresses of pools: this agent gives them"}
	case a.leader != "":
		return []string{"addresses of pools: the agent on " + a.leader + " gives them"}
	}
	return []string{"addresses of pools: no agent gives them yet (Lease " + a.opts.Namespace + "/" + LeaseName + ")"}
}

func (a *Assigner) lookEvery() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leading {
		return a.pace.look
	}
	return a.pace.idleLook
}

// Owners of problems.
const (
	ownerDocuments = "documents"
	ownerServices  = "services"
)

// problems are what is wrong now, by who has found it.
type problems struct {
	log *logrus.Entry

	mu    sync.Mutex
	since map[pools.Problem]time.Time
	owned map[string][]pools.Problem
}

func newProblems(log *logrus.Entry) *problems {
	return &problems{log: log, since: map[pools.Problem]time.Time{}, owned: map[string][]pools.Problem{}}
}

// set replaces what an owner has found, and returns what was not known before.
func (p *problems) set(owner string, found []pools.Problem) (news []pools.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.owned[owner]
	known := map[pools.Problem]bool{}
	for _, b := range before {
		known[b] = true
	}
	for _, f := range found {
		if known[f] {
			delete(known, f)
			continue
		}
		if _, twice := p.since[f]; !twice {
			p.since[f] = time.Now()
			news = append(news, f)
			p.log.WithFields(logrus.Fields{"object": f.Object.String(), "field": f.Field}).Warn(f.Message)
		}
	}
	for gone := range known {
		delete(p.since, gone)
	}
	p.owned[owner] = slices.Clone(found)
	return news
}

// cannot notes that something about an object can't be done, or is again where err is nil.
func (p *problems) cannot(about pools.Ref, err error) {
	if err == nil {
		p.set(about.String(), nil)
		return
	}
	p.set(about.String(), []pools.Problem{{Object: about, Message: err.Error()}})
}

func (p *problems) list() []status.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []status.Problem
	for _, found := range p.owned {
		for _, f := range found {
			list = append(list, status.Problem{Object: f.Object.String(), Field: f.Field, Message: f.Message, Since: p.since[f]})
		}
	}
	slices.SortFunc(list, compareProblems)
	return list
}
