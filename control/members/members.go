// SPDX-License-Identifier: Apache-2.0

// Package members keeps the agents of a group in touch: which of them are alive, and messages between them. It is
// hashicorp/memberlist (SWIM) with the group's key, and the search for the other agents.
package members

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// DefaultPort is that of the agents, by UDP and TCP. MetalLB's speakers use 7946, which the agents leave alone.
const DefaultPort = 7947

// Options say who the member is.
type Options struct {
	Name    string     // of the node, which no other member has
	Address netip.Addr // at which others reach it
	Port    uint16
	Key     Key
	// Find lists the addresses of agents, as host or host:port; its own may be among them. An error says that it is not known
	// which agents there are.
	Find func(context.Context) ([]string, error)
	// File keeps the addresses of the members that have been seen, for when Find fails; empty: they are not kept.
	File string
	Log  *logrus.Entry
}

// Events are what happens in a group. Calls come one at a time, and must return soon.
type Events interface {
	// Joined: a member is alive.
	Joined(name string)
	// Died: a member has not reacted for SilentFor, whatever others tried.
	Died(name string)
	Received(from string, message []byte)
}

// How soon a member is known to be dead: one that does not react to a probe is asked by way of others until the next probe is
// due, and is then suspected. It is dead if it does not object for SilentFor, or longer in groups of more than ten.
const (
	probeEvery    = 200 * time.Millisecond
	probeTimeout  = 100 * time.Millisecond
	suspicionMult = 3
	SilentFor     = suspicionMult * probeEvery
	gossipEvery   = 50 * time.Millisecond
	dialTimeout   = time.Second
	maxDatagram   = 1000 // bytes of a message that is sent as one; larger ones go by TCP
)

// Members is one member's view of the group.
type Members struct {
	opts   Options
	list   *memberlist.Memberlist
	events Events
	remote *remembered

	mu     sync.Mutex
	live   map[string]*memberlist.Node
	queues map[string]chan []byte
	found  []string // what Find has listed last
	// resolved are the addresses of hosts among these, with ports.
	resolved  map[string][]string
	conflicts map[string]Conflict // by name
	stop      chan struct{}
}

// Start opens the port. The group is not joined before Reconnect or Run.
func Start(opts Options, events Events) (*Members, error) {
	m := &Members{
		opts: opts, events: events, remote: newRemembered(opts.File),
		live: map[string]*memberlist.Node{}, queues: map[string]chan []byte{},
		resolved: map[string][]string{}, conflicts: map[string]Conflict{}, stop: make(chan struct{}),
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = opts.Name
	cfg.BindAddr, cfg.AdvertiseAddr = opts.Address.String(), opts.Address.String()
	cfg.BindPort, cfg.AdvertisePort = int(opts.Port), int(opts.Port)
	cfg.TCPTimeout = dialTimeout
	cfg.ProbeInterval, cfg.ProbeTimeout = probeEvery, probeTimeout
	cfg.SuspicionMult, cfg.SuspicionMaxTimeoutMult = suspicionMult, 1
	cfg.AwarenessMaxMultiplier = 3
	cfg.GossipInterval = gossipEvery
	cfg.DeadNodeReclaimTime = time.Second // a node may come back with another address
	cfg.SecretKey = opts.Key[:]
	cfg.Label = "waggle"
	cfg.Delegate, cfg.Events, cfg.Conflict = (*delegate)(m), (*delegate)(m), (*delegate)(m)
	cfg.Logger = log.New(newLogWriter(opts.Log), "", 0)
	wrap := func(err error) error { return fmt.Errorf("members: %s, port %d: %w", opts.Address, opts.Port, err) }
	inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{cfg.BindAddr}, BindPort: cfg.BindPort, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, wrap(err)
	}
	limited := limit(inner)
	cfg.Transport = limited
	if m.list, err = memberlist.Create(cfg); err != nil {
		go func() { _ = inner.Shutdown() }() // a connection that is not taken may keep it
		return nil, wrap(err)
	}
	go limited.run(m.stop)
	return m, nil
}

// Key is what members know each other by, and encrypt with (AES-256-GCM).
type Key [sha256.Size]byte

// minKey is the shortest secret, in bytes.
const minKey = 16

// ReadKey makes the key of a secret in a file: the hash of what is in it, without white space around.
func ReadKey(path string) (Key, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Key{}, err
	}
	secret := strings.TrimSpace(string(raw))
	if len(secret) < minKey {
		return Key{}, fmt.Errorf("%s: the secret has %d bytes; at least %d are needed", path, len(secret), minKey)
	}
	return sha256.Sum256([]byte(secret)), nil
}

// Close leaves the group without a word: others find that it is gone.
func (m *Members) Close() error {
	err := m.list.Shutdown()
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.stop:
	default:
		close(m.stop)
	}
	return err
}

// Send sends a message to a member, unless it is not alive. It may be lost, and messages may change places.
func (m *Members) Send(to string, message []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if queue := m.queues[to]; queue != nil {
		select {
		case queue <- message:
		default: // it is as if it had been lost
		}
	}
}

// drain sends what is for one member.
func (m *Members) drain(node *memberlist.Node, queue chan []byte) {
	for message := range queue {
		framed := frame(m.opts.Name, message)
		send := m.list.SendReliable
		if len(framed) <= maxDatagram {
			send = m.list.SendBestEffort
		}
		if err := send(node, framed); err != nil {
			m.opts.Log.WithError(err).WithField("member", node.Name).Debug("sending to a member")
		}
	}
}

// frame puts the name of the sender before a message.
func frame(name string, message []byte) []byte {
	framed := make([]byte, 0, 1+len(name)+len(message))
	framed = append(framed, byte(len(name)))
	framed = append(framed, name...)
	return append(framed, message...)
}

func unframe(framed []byte) (name string, message []byte, err error) {
	if len(framed) == 0 || len(framed) < 1+int(framed[0]) {
		return "", nil, errors.New("a message without a sender")
	}
	n := 1 + int(framed[0])
	return string(framed[1:n]), framed[n:], nil
}

// Live are the other members that are alive.
func (m *Members) Live() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.live))
	for name := range m.live {
		names = append(names, name)
	}
	return names
}

// delegate is what memberlist calls.
type delegate Members

func (d *delegate) NodeMeta(int) []byte             { return nil }
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
func (d *delegate) NotifyUpdate(*memberlist.Node)   {}

// NotifyMsg: a message has come, in a buffer that is not ours.
func (d *delegate) NotifyMsg(framed []byte) {
	name, message, err := unframe(framed)
	if err != nil {
		d.opts.Log.WithError(err).Debug("members")
		return
	}
	d.events.Received(name, append([]byte(nil), message...))
}

func (d *delegate) NotifyJoin(n *memberlist.Node) {
	if n.Name == d.opts.Name {
		return
	}
	node := *n
	queue := make(chan []byte, 256)
	d.mu.Lock()
	if old := d.queues[n.Name]; old != nil {
		close(old)
	}
	d.live[n.Name], d.queues[n.Name] = &node, queue
	d.mu.Unlock()
	d.remote.add(net.JoinHostPort(node.Addr.String(), fmt.Sprint(node.Port)))
	go (*Members)(d).drain(&node, queue)
	d.opts.Log.WithFields(logrus.Fields{"member": n.Name, "address": n.Address()}).Info("a member is there")
	d.events.Joined(n.Name)
}

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name == d.opts.Name {
		return
	}
	d.mu.Lock()
	if old := d.queues[n.Name]; old != nil {
		close(old)
	}
	delete(d.live, n.Name)
	delete(d.queues, n.Name)
	d.mu.Unlock()
	d.opts.Log.WithField("member", n.Name).Info("a member is gone")
	d.events.Died(n.Name)
}

// logWriter passes memberlist's log on. Any host can have it write an error, so only a few of them are shown.
type logWriter struct {
	log   *logrus.Entry
	shown *rate.Sometimes
}

func newLogWriter(log *logrus.Entry) logWriter {
	return logWriter{log, &rate.Sometimes{First: 10, Interval: 10 * time.Second}}
}

func (w logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	w.log.Trace(text)
	if rest, is := strings.CutPrefix(text, "[ERR] memberlist: "); is {
		w.shown.Do(func() { w.log.Info("members: " + rest) })
	}
	return len(line), nil
}
