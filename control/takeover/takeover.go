// SPDX-License-Identifier: Apache-2.0

// Package takeover moves connections between waggle and kube-proxy without breaking them: it leaves
// connections that the kernel translates to the kernel, hands flows back to it, and reports what kube-proxy
// has left.
package takeover

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/control/ipvs"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Takeover leaves connections that the kernel translates already to the kernel, such as those that
// kube-proxy's rules have opened: the kernel goes on translating them by its table of connections, whether
// or not the rules are still there. The datapath has a pair of records for each, which follow that table.
// The node's own connections from ports that it shares with flows of ours have records, too.
//
// The records are made when the datapath comes into force on a node where it wasn't. Later connections meet
// the datapath first, and need no such records.
type Takeover struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	warn    func(error)
	table   *conntrack.Table // nil: the kernel has none
	shared  SharedPorts
	adopted chan struct{} // there are records to look at

	virtual func(func(ipvs.Connection)) (bad int, err error) // ipvs.Each

	mu      sync.Mutex
	pending map[Step]bool
	keeping bool // keepNAT is in force
	keepErr error
	leftOut int // connections without room at the last look
	// converting: the flows of the previous release are not converted yet. convertedSince: they are by now,
	// but the walk that Counted gets next may have begun before that, and does not count.
	converting, convertedSince bool
}

// Step is one of the two steps that bring the datapath into force. They may come in either order.
type Step int

// The steps.
const (
	Attaching  Step = iota // of programs to devices
	Publishing             // of services
)

// New finds out which of the steps an earlier agent has taken. Programs that are attached leave all packets
// to the kernel until there are services. It calls shared before each step. It calls warn with what is wrong
// with the connections that the kernel translates, and with nil when nothing is wrong any more.
func New(dp *loader.Datapath, shared SharedPorts, warn func(error), log *logrus.Entry) (*Takeover, error) {
	t := &Takeover{
		dp: dp, log: log, warn: warn, shared: shared, virtual: ipvs.Each,
		adopted: make(chan struct{}, 1), pending: map[Step]bool{},
		converting: len(dp.OldFlows()) > 0,
	}
	published, err := hasFrontends(dp)
	if err != nil {
		return nil, err
	}
	if t.table, err = conntrack.Open(); err != nil {
		log.WithError(err).Debug("the kernel's table of connections can't be read; none is taken over")
	}
	if t.keeping, err = keepsNAT(); err != nil {
		log.WithError(err).Debug("looking for what an earlier agent has left")
	}
	links, err := dp.Links()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(links, func(l loader.LinkStatus) bool { return l.Ifindex != 0 && l.Attached }) {
		t.pending[Attaching], t.pending[Publishing] = true, true
	}
	if !published {
		t.pending[Publishing] = true
	}
	return t, nil
}

// hasFrontends reports whether services have been published, and not withdrawn by a handover.
func hasFrontends(dp *loader.Datapath) (bool, error) {
	for _, err := range maps.NewServices(dp).Frontends() {
		return err == nil, err
	}
	return false, nil
}

// Begin is called before a step. The datapath must not take packets of existing connections for its own.
func (t *Takeover) Begin(s Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending[s] {
		t.adopt()
	}
}

// End is called after a step, and adopts connections that have opened meanwhile. If the other step is still
// to come, nothing is translated before that, and its Begin adopts them.
func (t *Takeover) End(s Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.pending[s] {
		return
	}
	if len(t.pending) == 1 {
		t.adopt()
	}
	delete(t.pending, s)
}

// Counted gets the number of records of such connections that are left. When the last one ends, it undoes
// what was done for them in the kernel.
func (t *Takeover) Counted(records uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.convertedSince {
		t.converting, t.convertedSince = false, false
		return
	}
	if records > 0 || !t.keeping || len(t.pending) > 0 || t.converting {
		return
	}
	if _, err := ReleaseNAT(); err != nil {
		t.warn(err)
		return
	}
	t.keeping, t.leftOut = false, 0
	t.report()
	t.log.Info("the last connection that was left to the kernel has ended")
}

// Converted is called when the flows of the previous release are converted.
func (t *Takeover) Converted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.convertedSince = t.converting
}

// adopt logs its failures and returns no error: most nodes have nothing to adopt.
func (t *Takeover) adopt() {
	if t.table == nil {
		return
	}
	t.leftOut = 0
	shared, err := t.shared()
	if err != nil {
		t.log.WithError(err).Error("the node's own connections from before the agent's start are not known")
	}
	a := adoption{dp: t.dp, shared: shared}
	err = a.run(t.table)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		t.log.WithError(err).Debug("the kernel has no table of connections; none is taken over")
	} else if err != nil {
		t.log.WithError(err).Error("taking over the kernel's connections: some break")
	}
	t.took(&a)
	t.adoptVirtual()
	t.report()
}

// took handles the result of an adoption.
func (t *Takeover) took(a *adoption) {
	t.leftOut += a.leftOut
	if a.adopted > 0 {
		t.keep()
		t.log.WithField("connections", a.adopted).Info("connections that the kernel translates are left to it")
		t.poke()
	}
}

func (t *Takeover) keep() {
	if t.keeping {
		return
	}
	t.keepErr = keepNAT()
	t.keeping = t.keepErr == nil
	t.report()
}

// report updates the warnings about adopted connections.
func (t *Takeover) report() {
	var errs []error
	if t.keepErr != nil {
		errs = append(errs, fmt.Errorf("they break if the last rules that need the kernel's NAT are deleted: %w", t.keepErr))
	}
	if t.leftOut > 0 {
		errs = append(errs, fmt.Errorf("%d of them break, since they would take more than half of the table of flows (--map-size)", t.leftOut))
	}
	t.warn(errors.Join(errs...))
}

// poke schedules a look at the adopted records.
func (t *Takeover) poke() {
	select {
	case t.adopted <- struct{}{}:
	default:
	}
}
