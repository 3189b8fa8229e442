// SPDX-License-Identifier: Apache-2.0

// Package canary asks the datapath each second what it would do with a packet, and compares the answer with what
// the control plane has planned. A health check that asks the agent alone stays green while packets are lost.
package canary

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/pulse"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// A round that fails may have met a change half way, and one that succeeds may have met the other half of what is
// broken: so neither counts alone.
const (
	// badRounds in a row say that the datapath is broken: it is known within three seconds.
	badRounds = 2
	// goodRounds in a row say that it works again.
	goodRounds = 5
	// restRounds pass before twins are loaded again that the kernel has refused: that takes time, and may be for want
	// of memory.
	restRounds = 60
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
	// Cgroup is the cgroup whose processes' sockets are served; empty: none are.
	Cgroup string
	// Report is called when what Err returns changes.
	Report func(error)
	// Loaded is called when twins have been loaded, which takes much memory for a moment, or were refused.
	Loaded func()
}

// Canary asks the datapath. It is safe for concurrent use.
type Canary struct {
	Options
	log *logrus.Entry

	round     int // counts rounds, and so takes turns
	asker     *asker
	isRefused bool // by the kernel: the last twins
	rest      int  // rounds until twins are loaded again
	good      int  // rounds in a row
	bad       int
	turns     *turns
	macs      map[int]net.HardwareAddr // of devices that were asked, by index, as long as turns is
	// What was wrong in the round before is looked at again, whosever turn it is.
	detached map[attachment]bool
	misled   *reconcile.Sample

	mu  sync.Mutex
	err error
}

// New makes a Canary that has found nothing yet.
func New(o Options, log *logrus.Entry) *Canary {
	return &Canary{Options: o, log: log, turns: newTurns(nil), macs: map[int]net.HardwareAddr{}}
}

// Err returns what is wrong with the datapath. Nil: nothing is, or nothing is known.
func (c *Canary) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run asks until ctx is done. It is called once the services are in force: before, there is nothing to ask.
func (c *Canary) Run(ctx context.Context) {
	defer c.forget()
	tick := time.NewTimer(pulse.Next())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Reset(pulse.Next())
		}
		c.round++
		c.judge(c.look())
	}
}

// look is one round.
func (c *Canary) look() error {
	links := c.Links()
	errs := []error{c.attached(links), c.Datapath.CheckWritable()}
	if c.prepare(links) {
		errs = append(errs, c.ask(links))
	}
	return errors.Join(errs...)
}

// prepare loads the twins of the programs that are attached, again when there are more. False: the kernel refuses.
func (c *Canary) prepare(links []status.Link) bool {
	switch {
	case c.asker != nil && c.asker.covers(links):
		return true
	case c.rest > 0:
		c.rest--
		return false
	}
	c.forget()
	asker, err := newAsker(c.Datapath, links)
	defer c.Loaded()
	if err != nil {
		c.refused(err)
		return false
	}
	c.asker = asker
	if c.isRefused {
		c.log.Info("the self-test of the programs works again")
	}
	c.isRefused = false
	return true
}

// refused puts the next try off. Only the first of a row is logged.
func (c *Canary) refused(err error) {
	if !c.isRefused {
		c.log.WithError(err).Warn("the self-test of the programs is off: /healthz only checks that they are attached, and that the maps are writable")
	}
	c.isRefused, c.rest = true, restRounds
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
