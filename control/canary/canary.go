// SPDX-License-Identifier: Apache-2.0

// Package canary asks the datapath each second what it would do with a packet, and compares the answer with what
// the control plane has planned. A health check that asks the agent alone stays green while packets are lost.
package canary

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// A round that fails may have met a change half way, and one that succeeds may have met the other half of what is
// broken: so neither counts alone.
const (
	period = time.Second
	// badRounds in a row say that the datapath is broken: it is known within three seconds.
	badRounds = 2
	// goodRounds in a row say that it works again.
	goodRounds = 5
)

// Services is what the control plane has planned.
type Services interface {
	// Sample returns any frontend. False: there is none.
	Sample() (reconcile.Sample, bool)
	// SampleOf returns a frontend as it is by now. False: it is none any more.
	SampleOf(reconcile.Sample) (reconcile.Sample, bool)
}

// Options are what a Canary needs.
type Options struct {
	Datapath *loader.Datapath
	Services Services
	// Links are the programs that are to be attached, as they were seen last.
	Links func() []status.Link
	// Cgroup is whose sockets are to be served; empty: nobody's.
	Cgroup string
	// Report is called when what Err returns changes.
	Report func(error)
	// Loaded is called when twins have been loaded, which takes much memory for a moment.
	Loaded func()
}

// Canary asks the datapath. It is safe for concurrent use.
type Canary struct {
	Options
	log *logrus.Entry

	round int // counts rounds, and so takes turns
	asker *asker
	good  int // rounds in a row
	bad   int
	// What was wrong in the round before is looked at again, whosever turn it is.
	detached map[attachment]bool
	misled   *reconcile.Sample

	mu  sync.Mutex
	err error
}

// New makes a Canary that has found nothing yet.
func New(o Options, log *logrus.Entry) *Canary { return &Canary{Options: o, log: log} }

// Err returns what is wrong with the datapath. Nil: nothing is, or nothing is known.
func (c *Canary) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run asks until ctx is done. It is called once the services are in force: before, there is nothing to ask.
func (c *Canary) Run(ctx context.Context) {
	defer c.forget()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.round++
		err := c.look()
		if errors.Is(err, errCannotAsk) {
			c.log.WithError(err).Warn("the datapath is not asked what it does; /healthz goes by the agent alone")
			return
		}
		c.judge(err)
	}
}

// errCannotAsk: no answer can be had, right or wrong.
var errCannotAsk = errors.New("no explain twin")

// look is one round.
func (c *Canary) look() error {
	links := c.Links()
	if err := c.prepare(links); err != nil {
		return err
	}
	return errors.Join(c.attached(links), c.Datapath.CheckWritable(), c.ask(links))
}

// prepare loads the twins of the programs that are attached, again when there are more.
func (c *Canary) prepare(links []status.Link) error {
	if c.asker != nil && c.asker.covers(links) {
		return nil
	}
	c.forget()
	asker, err := newAsker(c.Datapath, links)
	if err != nil {
		return fmt.Errorf("%w: %w", errCannotAsk, err)
	}
	c.asker = asker
	c.Loaded()
	return nil
}

func (c *Canary) forget() {
	if c.asker != nil {
		c.asker.close()
	}
	c.asker = nil
}

// judge damps what the rounds say.
func (c *Canary) judge(err error) {
	if err != nil {
		c.good, c.bad = 0, c.bad+1
		if c.bad >= badRounds {
			c.set(errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))) // of several, one line
		}
		return
	}
	c.good, c.bad = c.good+1, 0
	if c.good >= goodRounds {
		c.set(nil)
	}
}

func (c *Canary) set(err error) {
	c.mu.Lock()
	changed := fmt.Sprint(c.err) != fmt.Sprint(err)
	c.err = err
	c.mu.Unlock()
	if changed {
		c.Report(err)
	}
}
