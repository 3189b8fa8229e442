// SPDX-License-Identifier: Apache-2.0

// Package takeover lets waggle and kube-proxy take each other's place without a broken connection: it
// leaves to the kernel what the kernel translates already, gives flows back, and tells what kube-proxy
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

// Takeover leaves to the kernel the connections that the kernel translates already, as those that
// kube-proxy's rules have opened: it goes on with them by its table of connections, whether or not
// the rules are still there. The datapath has a pair of records for each, which follow that table.
// The node's own connections from ports that it shares with flows of ours have records, too.
//
// They are made while the datapath comes into force on a node where it wasn't. From then on there
// are no new ones that it could be asked about.
type Takeover struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	warn    func(error)
	table   *conntrack.Table // nil: the kernel has none
	shared  SharedPorts
	adopted chan struct{} // there are records to be looked at

	virtual func(func(ipvs.Connection)) (bad int, err error) // ipvs.Each

	mu      sync.Mutex
	pending map[Step]bool
	keeping bool // the kernel's NAT
	keepErr error
	leftOut int // connections for which there was no room at the last look
	// converting the flows of the release before; one walk that is told of later may have begun before
	// the end of it.
	converting, convertedSince bool
}

// Step is one of the two that bring the datapath into force, in either order.
type Step int

// The steps.
const (
	Attaching  Step = iota // programs to devices
	Publishing             // services
)

// New finds out which of the steps an earlier agent has taken. Programs that are attached leave
// everything to the kernel until services are there. shared is asked before each step. warn is called
// with what is wrong with the connections that the kernel translates, and with nil when nothing is any more.
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

// Begin comes before a step: no packet of what is there shall be mistaken for the datapath's own.
func (t *Takeover) Begin(s Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending[s] {
		t.adopt()
	}
}

// End comes after it, and finds what has come meanwhile. Where the other step is still to come, nothing is
// translated before that, whose Begin finds it.
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

// Counted is told how many records of such connections are left. The last that goes takes along
// what was done for them.
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
	t.tell()
	t.log.Info("the last connection that was left to the kernel has ended")
}

// Converted tells that the flows of the release before are converted.
func (t *Takeover) Converted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.convertedSince = t.converting
}

// adopt is no reason to fail: most nodes have nothing to be adopted.
func (t *Takeover) adopt() {
	if t.table == nil {
		return
	}
	t.leftOut = 0
	shared, err := t.shared()
	if err != nil {
		t.log.WithError(err).Error("connections of the node's own that are older than the agent are not known")
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
	t.tell()
}

// took does what follows from an adoption.
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
	t.tell()
}

// tell keeps the warnings about adopted connections up to date.
func (t *Takeover) tell() {
	var errs []error
	if t.keepErr != nil {
		errs = append(errs, fmt.Errorf("they break if the last rules go that need the kernel's NAT: %w", t.keepErr))
	}
	if t.leftOut > 0 {
		errs = append(errs, fmt.Errorf("%d of them break, since they would take more than half of the table of flows (--map-size)", t.leftOut))
	}
	t.warn(errors.Join(errs...))
}

// poke has the adopted records looked at.
func (t *Takeover) poke() {
	select {
	case t.adopted <- struct{}{}:
	default:
	}
}
