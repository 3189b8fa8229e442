// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/layer2"
	datapath "github.com/waggle-lb/waggle/maps"
)

// Wire is what a node does on its networks: layer2.Wire.
type Wire interface {
	Hold(addr netip.Addr, ifindexes []int) error
	Release(addr netip.Addr) error
	Extend(lifetime time.Duration) error
	Drop() error
	Probe(ctx context.Context, addr netip.Addr, ifindexes []int) (net.HardwareAddr, error)
	Defend(addr netip.Addr)
	Held() (map[netip.Addr][]int, error)
	Remaining() (time.Duration, error)
	Devices() ([]layer2.Device, error)
	Refresh() error
	Close() error
}

// Group is the other agents.
type Group interface {
	Send(to string, message []byte)
	// Reconnect tries to reach every agent that is known, and returns when each has answered or hasn't. An error says that
	// it is not known which agents there are.
	Reconnect(context.Context) (reached int, err error)
}

// Options say who announces.
type Options struct {
	Node string
	Wire Wire
	// Join opens the group; its events are the Announcer's. nil: the node is alone.
	Join func(context.Context, *Announcer) (Group, error)
	// Inputs are what the offers follow from, as far as the devices. ok: services are in force.
	Inputs func() (in Inputs, ok bool)
	// Warn reports a trouble until it is over, which nil says.
	Warn func(about string, err error)
	// Conflict reports that another host has an address. View says whether this node announces it nevertheless.
	Conflict func(addr netip.Addr, services []string, mac string)
	// Seen is called when there is another View.
	Seen func()
	// File keeps since when addresses are held while the agent restarts.
	File string
	Log  *logrus.Entry
}

// Announcer announces what this node is chosen for.
type Announcer struct {
	opts    Options
	p       *protocol
	group   Group
	changed chan struct{} // something that the offers follow from
	rewired chan struct{} // devices
	woken   chan struct{} // there are events

	mu     sync.Mutex
	events []func()
	view   *View // as at the last event

	places map[netip.Addr]*place
	// incomplete are addresses that are held, but not on all devices of their places.
	incomplete map[netip.Addr]bool
	// failures are why the kernel could not be made to answer for addresses, or the network not be asked, at the last attempt.
	failures map[netip.Addr]error
	devices  []layer2.Device
	carrier  bool // of any device
	settled  time.Time
	probes   chan struct{} // holds a place for each that runs
	contacts int           // how many attempts to reach others have begun
	ctx      context.Context
	ended    chan struct{}
	guard    guard
}

// maxProbes is how many addresses are asked for at one time: each is asked for by three broadcasts in 0.75 s, so a node sends
// some 250 of them a second at most.
const maxProbes = 64

// New makes an Announcer. Nothing happens before Run.
func New(opts Options) *Announcer {
	return &Announcer{
		opts: opts, changed: make(chan struct{}, 1), rewired: make(chan struct{}, 1), woken: make(chan struct{}, 1),
		places: map[netip.Addr]*place{}, incomplete: map[netip.Addr]bool{}, failures: map[netip.Addr]error{}, probes: make(chan struct{}, maxProbes), ended: make(chan struct{}), view: &View{}, guard: newGuard(),
	}
}

// Changed says that offers may have to be made anew.
func (a *Announcer) Changed() { poke(a.changed) }

// Rewired says that devices may have changed.
func (a *Announcer) Rewired() { poke(a.rewired) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Joined is part of members.Events.
func (a *Announcer) Joined(name string) { a.later(func() { a.p.joined(now(), name) }) }

// Died is part of members.Events.
func (a *Announcer) Died(name string) { a.later(func() { a.p.died(now(), name) }) }

// Received is part of members.Events.
func (a *Announcer) Received(from string, raw []byte) {
	m, err := decode(raw)
	if err != nil {
		a.opts.Log.WithError(err).WithField("member", from).Debug("announcing")
		return
	}
	a.later(func() { a.p.received(now(), from, m) })
}

// now is the clock of the protocol, by which the kernel stops answering, too.
func now() time.Duration { return datapath.Monotonic() }

// later has the loop do something.
func (a *Announcer) later(event func()) {
	a.mu.Lock()
	a.events = append(a.events, event)
	a.mu.Unlock()
	poke(a.woken)
}

func (a *Announcer) take() []func() {
	a.mu.Lock()
	defer a.mu.Unlock()
	events := a.events
	a.events = nil
	return events
}

// Run announces until ctx is done. Then the kernel goes on to answer for Timing.Grace, in which the agent is to be started
// again, if the other members have noted that.
func (a *Announcer) Run(ctx context.Context) {
	defer close(a.ended)
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	a.ctx = inner
	boot := strconv.FormatInt(time.Now().UnixNano(), 36)
	a.p = newProtocol(a.opts.Node, boot, DefaultTiming, (*node)(a), now())
	a.resume()
	defer func() { a.opts.Warn(about, a.opts.Wire.Close()) }()
	if !a.join(ctx) {
		return
	}
	a.look()
	a.loop(ctx)
	a.leave()
}

// about is what problems are about.
const about = "announcing addresses"

// joinPatience is for how long it is no trouble that the group can't be joined: the node's address is not known at first.
const joinPatience = 3 * time.Second

// join opens the group's port, which may be in use for a while.
func (a *Announcer) join(ctx context.Context) bool {
	for began := time.Now(); a.opts.Join != nil; {
		group, err := a.opts.Join(a.ctx, a)
		if err == nil || time.Since(began) > joinPatience {
			a.opts.Warn("members", err)
		}
		if err == nil {
			a.group = group
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-a.changed:
		case <-a.rewired: // the address may be known
		case <-time.After(time.Second):
		}
	}
	return true
}

// resume takes over what the kernel answers for since before this process.
func (a *Announcer) resume() {
	held, err := a.opts.Wire.Held()
	remaining, err2 := a.opts.Wire.Remaining()
	if err := errors.Join(err, err2); err != nil {
		a.opts.Warn(about, err)
	}
	if remaining == 0 {
		a.opts.Warn(about, a.opts.Wire.Drop())
		return
	}
	since := readSince(a.opts.File)
	all := map[netip.Addr]int64{}
	for addr, on := range held {
		if err := a.hold(addr, on); err != nil {
			a.opts.Log.WithError(err).Warn("an address that was announced before the restart")
			continue
		}
		if all[addr] = since[addr]; all[addr] == 0 {
			all[addr] = time.Now().Unix()
		}
		a.places[addr] = &place{devices: on}
	}
	a.p.resume(all, now()+remaining)
}

func (a *Announcer) loop(ctx context.Context) {
	beat := time.NewTicker(a.p.timing.Beat)
	defer beat.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	watch := time.NewTicker(guardPause)
	defer watch.Stop()
	a.p.beat(now())
	for {
		tick := time.NewTimer(max(time.Millisecond, a.p.next()-now()))
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-beat.C:
			a.p.beat(now())
		case <-tick.C:
			a.p.tick(now())
		case <-a.woken:
			a.handle()
		case <-a.changed:
			a.evaluate()
		case <-a.rewired:
			a.look()
		case <-look.C:
			a.look()
		case <-watch.C:
			a.keepWatch()
		}
		tick.Stop()
		a.show()
	}
}

// handle handles the events, and beats between them: there may be so many that the time of the last beat is over before
// all are done.
func (a *Announcer) handle() {
	for _, event := range a.take() {
		event()
		if now() >= a.p.beaten+a.p.timing.Beat {
			a.p.beat(now())
		}
	}
}

// lookEvery is how often the offers are made anew though nothing has been said to have changed.
const lookEvery = 10 * time.Second

// look follows the devices, and makes the offers.
func (a *Announcer) look() {
	devices, err := a.opts.Wire.Devices()
	if err == nil {
		err = a.follow(devices)
	}
	a.opts.Warn(about, err)
	if err == nil {
		a.evaluate()
	}
}

// evaluate makes the offers.
func (a *Announcer) evaluate() {
	in, ok := a.opts.Inputs()
	if !ok {
		return
	}
	in.Devices = a.devices
	before := a.places
	a.places = evaluate(in)
	offers := make(map[netip.Addr]Offer, len(a.places))
	for addr, at := range a.places {
		offers[addr] = at.Offer
		was := before[addr]
		again := a.incomplete[addr] || was != nil && !slices.Equal(was.devices, at.devices)
		if again && len(at.devices) > 0 && a.holds(addr) {
			if err := a.hold(addr, at.devices); err != nil {
				a.p.failed(now(), addr, err)
			}
		}
	}
	a.warnOfFailures()
	a.p.offer(now(), offers)
}

// hold has the kernel answer for an address on devices. If it does on some of them only, that is a warning, and tried again
// when the offers are made anew. An error: it does on none.
func (a *Announcer) hold(addr netip.Addr, devices []int) error {
	err := a.opts.Wire.Hold(addr, devices)
	if errors.Is(err, layer2.ErrLapsed) {
		return err // the next beat gives it up
	}
	delete(a.incomplete, addr)
	about := "announcing " + addr.String()
	if err == nil {
		a.opts.Warn(about, nil)
		return nil
	}
	held, err2 := a.opts.Wire.Held()
	if err2 != nil || len(held[addr]) == 0 {
		a.opts.Warn(about, nil)
		a.note(addr, errors.Join(err, err2))
		return errors.Join(err, err2)
	}
	a.incomplete[addr] = true
	a.opts.Warn(about, err)
	return nil
}

// note keeps why an address could not be announced; nil: it could.
func (a *Announcer) note(addr netip.Addr, err error) {
	if delete(a.failures, addr); err != nil && a.places[addr] != nil && !errors.Is(err, context.Canceled) {
		a.failures[addr] = err
	}
	a.warnOfFailures()
}

// warnOfFailures makes one warning of all: they mostly have the same cause.
func (a *Announcer) warnOfFailures() {
	gomaps.DeleteFunc(a.failures, func(addr netip.Addr, _ error) bool { return a.places[addr] == nil })
	var err error
	if n := len(a.failures); n > 0 {
		first := slices.MinFunc(slices.Collect(gomaps.Keys(a.failures)), netip.Addr.Compare)
		err = fmt.Errorf("this node can't announce some addresses (%d), such as %s: %w", n, first, a.failures[first])
	}
	a.opts.Warn("announcing", err)
}

func (a *Announcer) holds(addr netip.Addr) bool {
	_, held := a.p.held[addr]
	return held
}

// follow notices that devices have changed. A node without any link has lost the others, and finds out what has happened
// meanwhile before it claims anything again.
func (a *Announcer) follow(devices []layer2.Device) error {
	if a.devices != nil && !slices.EqualFunc(a.devices, devices, func(x, y layer2.Device) bool {
		return x.Index == y.Index && slices.Equal(x.MAC, y.MAC)
	}) {
		if err := a.opts.Wire.Refresh(); err != nil {
			return err
		}
	}
	a.devices = devices
	a.p.macs = nil
	for _, d := range devices {
		a.p.macs = append(a.p.macs, d.MAC.String())
	}
	carrier := slices.ContainsFunc(devices, func(d layer2.Device) bool { return d.Carrier })
	if carrier == a.carrier {
		return nil
	}
	a.carrier = carrier
	a.contacts++
	a.p.contacted(now(), false)
	if carrier {
		(*node)(a).reconnect()
	}
	return nil
}

// leavePatience is for how long an agent that ends waits for the members to note it.
const leavePatience = 4 * time.Second

// leave says to the members that the agent ends, and waits for them to note it.
func (a *Announcer) leave() {
	a.p.leave(now())
	beat := time.NewTicker(a.p.timing.Beat)
	defer beat.Stop()
	patience := time.After(leavePatience)
	for !a.p.left() {
		select {
		case <-patience:
			a.opts.Log.Warn("not all members have noted that this agent restarts: its addresses move")
			return
		case <-beat.C:
			a.p.beat(now())
		case <-a.woken:
			a.handle()
		}
	}
	writeSince(a.opts.File, a.p.held)
	if held := len(a.p.held); held > 0 {
		a.opts.Log.WithField("addresses", held).Info("the kernel goes on to answer while the agent restarts")
	}
}

// node are the effects of the protocol.
type node Announcer

func (n *node) hold(addr netip.Addr) error {
	at := n.places[addr]
	if at == nil {
		return fmt.Errorf("%s is not known any more", addr)
	}
	err := (*Announcer)(n).hold(addr, at.devices)
	if err == nil {
		n.opts.Log.WithField("address", addr).Info("this node announces an address")
	}
	return err
}

func (n *node) release(addr netip.Addr) error {
	err := n.opts.Wire.Release(addr)
	delete(n.incomplete, addr)
	n.opts.Warn("announcing "+addr.String(), nil)
	n.opts.Log.WithField("address", addr).WithError(err).Info("this node announces an address no more")
	return err
}

func (n *node) extend(until time.Duration) (lapsed bool, err error) {
	err = n.opts.Wire.Extend(until - now())
	return errors.Is(err, layer2.ErrLapsed), err
}

func (n *node) restart() error { return n.opts.Wire.Drop() }

func (n *node) clock() time.Duration { return now() }

func (n *node) since() int64 { return time.Now().Unix() }

func (n *node) send(to string, m *message) {
	if n.group == nil {
		return
	}
	raw, err := m.encode()
	if err != nil {
		n.opts.Log.WithError(err).Error("announcing addresses")
		return
	}
	n.group.Send(to, raw)
}

// probe asks the network, for many addresses at a time.
func (n *node) probe(addrs []netip.Addr) {
	a := (*Announcer)(n)
	for _, addr := range addrs {
		var on []int
		if at := a.places[addr]; at != nil {
			on = slices.Clone(at.devices)
		}
		go func() {
			select {
			case <-a.ctx.Done():
				return
			case a.probes <- struct{}{}:
			}
			mac, err := a.opts.Wire.Probe(a.ctx, addr, on)
			<-a.probes
			a.later(func() {
				a.note(addr, err)
				a.p.probed(now(), addr, mac.String(), err)
				if a.places[addr] != nil && a.p.own(addr).Not == Conflict {
					a.opts.Conflict(addr, a.services(addr), mac.String())
				}
			})
		}()
	}
}

// How long others are looked for where there should be some: a switch may take as long to let a port that comes up send.
const contactPatience = 2 * time.Second

// reconnect tries to reach the other agents until it is known which there are.
func (n *node) reconnect() {
	a := (*Announcer)(n)
	a.contacts++
	number := a.contacts
	done := func() {
		a.later(func() {
			if number == a.contacts {
				a.p.contacted(now(), true)
			}
		})
	}
	if a.group == nil {
		done()
		return
	}
	go func() {
		for began := time.Now(); a.ctx.Err() == nil; {
			reached, err := a.group.Reconnect(a.ctx)
			a.opts.Warn("members", err)
			if err == nil && (reached != 0 || time.Since(began) >= contactPatience) {
				done()
				return
			}
			select {
			case <-a.ctx.Done():
			case <-time.After(contactPause):
			}
		}
	}()
}

const contactPause = 200 * time.Millisecond
