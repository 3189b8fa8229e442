// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/control/announce"
	"github.com/waggle-lb/waggle/control/layer2"
	"github.com/waggle-lb/waggle/control/members"
	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
)

// AnnounceConfig is how addresses are announced.
type AnnounceConfig struct {
	Classes pools.Classes // of the Services whose addresses are
	// Key is the group's; nil: this node is alone.
	Key  *members.Key
	Port uint16
	// Address is where others reach this agent; invalid: at the node's own.
	Address netip.Addr
	// Peers are the other agents, as host or host:port; nil: the source says.
	Peers []string
}

// announcing is the part of the agent that announces addresses: it gathers what the offers follow from.
type announcing struct {
	cfg       AnnounceConfig
	nodeName  string
	src       source.Addresser
	proxy     *Proxy
	log       *logrus.Entry
	announcer *announce.Announcer
	conflicts *conflicts
	file      string // that keeps the addresses of members

	mu       sync.Mutex
	services map[types.NamespacedName]*v1.Service
	node     *v1.Node
	addrs    []netip.Addr // of the node
	synced   bool         // services are in force
	group    *members.Members
}

// newAnnouncing makes the part, or returns nil if the agent announces nothing.
func (a *Agent) newAnnouncing() *announcing {
	src, follows := a.src.(source.Addresser)
	if a.cfg.Announce == nil || !follows {
		return nil
	}
	n := &announcing{
		cfg: *a.cfg.Announce, nodeName: a.cfg.NodeName, src: src, proxy: a.proxy, log: a.log, services: map[types.NamespacedName]*v1.Service{},
		conflicts: &conflicts{}, file: filepath.Join(rundir.Cache(a.cfg.RunDir), "members.json"),
	}
	if r, ok := a.src.(source.Recorder); ok {
		n.conflicts.recorder = r.Recorder()
	}
	opts := announce.Options{
		Node: a.cfg.NodeName, Wire: layer2.New(a.dp, a.log), Inputs: n.inputs, Conflict: n.conflict, Seen: a.poke,
		Warn: a.warn,
		File: filepath.Join(rundir.Cache(a.cfg.RunDir), "announced.json"), Log: a.log,
	}
	if n.cfg.Key != nil {
		opts.Join = n.join
	}
	n.announcer = announce.New(opts)
	if s, ok := a.src.(source.Notifier); ok {
		s.Notify(n.announcer.Changed)
	}
	return n
}

// run announces until ctx is done.
func (n *announcing) run(ctx context.Context) {
	if n == nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.watchLinks(ctx) })
	n.announcer.Run(ctx)
	wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.group != nil {
		if err := n.group.Close(); err != nil {
			n.log.WithError(err).Debug("leaving the group")
		}
	}
}

// watchLinks follows links that come and go: a node without one is to stop announcing at once.
func (n *announcing) watchLinks(ctx context.Context) {
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		n.log.WithError(err).Warn("links that come and go are noticed late")
		return
	}
	states := map[int]netlink.LinkOperState{}
	for u := range updates {
		attrs := u.Attrs()
		if before, known := states[attrs.Index]; !known || before != attrs.OperState {
			states[attrs.Index] = attrs.OperState
			n.announcer.Rewired()
		}
		if u.Header.Type == unix.RTM_DELLINK {
			delete(states, attrs.Index)
		}
	}
}

// errNoAddress: the Node object, or the node's devices, have not been seen yet.
var errNoAddress = errors.New("the address of this node is not known yet (--members-address)")

// join opens the group's port.
func (n *announcing) join(ctx context.Context, events *announce.Announcer) (announce.Group, error) {
	n.mu.Lock()
	addr := n.cfg.Address
	if !addr.IsValid() && len(n.addrs) > 0 {
		addr = n.addrs[0]
	}
	n.mu.Unlock()
	if !addr.IsValid() {
		return nil, errNoAddress
	}
	group, err := members.Start(members.Options{
		Name: n.nodeName, Address: addr, Port: n.cfg.Port, Key: *n.cfg.Key, Log: n.log, File: n.file,
		Find: func(ctx context.Context) ([]string, error) { return n.find(ctx, addr) },
	}, events)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.group = group
	n.mu.Unlock()
	go group.Run(ctx)
	return group, nil
}

// find lists the other agents. Two agents that start at one time in a cluster may be missing in the list both. So the list
// counts once this agent is in it: the one that is added later finds the other one.
func (n *announcing) find(ctx context.Context, own netip.Addr) ([]string, error) {
	if n.cfg.Peers != nil {
		return n.cfg.Peers, nil
	}
	cluster, ok := n.src.(source.Announcing)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	all, err := cluster.Agents(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(all, own) {
		return nil, fmt.Errorf("this agent, %s, is not among the endpoints of the Service of the members: is there such a Service (deploy/addresses.yaml)?", own)
	}
	var list []string
	for _, a := range all {
		list = append(list, a.String())
	}
	return list, nil
}

const findTimeout = 5 * time.Second

// onService follows the Services that may have addresses.
func (n *announcing) onService(takes func(map[string]string) bool, old, svc *v1.Service) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old != nil {
		delete(n.services, types.NamespacedName{Namespace: old.Namespace, Name: old.Name})
	}
	if svc != nil && takes(svc.Labels) && (svc.Spec.Type == v1.ServiceTypeLoadBalancer || len(svc.Spec.ExternalIPs) > 0) {
		n.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = svc
	}
}

// onNode follows our Node object.
func (n *announcing) onNode(node *v1.Node) {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.node = node
	n.mu.Unlock()
	n.announcer.Changed()
}

// onDevices follows the devices of the node.
func (n *announcing) onDevices(addrs []netip.Addr) {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.addrs = addrs
	n.mu.Unlock()
	n.announcer.Rewired()
}

// onSync: services and endpoints are in force. Those that come before the next call are looked at too soon at worst; but an
// address that is new is announced only once the network has been asked for it, for longer than it takes to write the maps.
func (n *announcing) onSync() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.synced = true
	n.mu.Unlock()
	n.announcer.Changed()
}

// inputs are what the offers follow from.
func (n *announcing) inputs() (in announce.Inputs, ok bool) {
	in = announce.Inputs{Set: n.src.Pools(), Classes: n.cfg.Classes}
	if cluster, is := n.src.(source.Announcing); is {
		if in.Others, ok = cluster.Announcing(); !ok {
			return in, false
		}
	}
	in.LocalReady = n.proxy.localReady
	n.mu.Lock()
	defer n.mu.Unlock()
	in.Node = n.node
	for _, svc := range n.services {
		in.Services = append(in.Services, svc)
	}
	return in, n.synced
}

// show adds to the addresses of pools who announces them, and those that are of no pool.
func (n *announcing) show(s *status.Status) {
	if n == nil {
		return
	}
	view := n.announcer.View()
	listed := map[string]bool{}
	s.Addresses = slices.Clone(s.Addresses) // it is the source's
	for i := range s.Addresses {
		at := &s.Addresses[i]
		listed[at.Address] = true
		addr, err := netip.ParseAddr(at.Address)
		if err != nil {
			continue
		}
		if w, known := view.Addresses[addr]; known {
			at.Announced = &status.Announced{Holder: w.Holder, Since: w.Since, Why: w.Why}
		}
	}
	s.Announces = true
	for _, m := range view.Members {
		s.Members = append(s.Members, status.Member{Name: m.Name, State: m.State})
	}
	n.mu.Lock()
	if n.group != nil {
		for _, addr := range n.group.Missing() {
			s.Members = append(s.Members, status.Member{Name: addr, State: "does not answer"})
		}
	}
	n.mu.Unlock()
	for addr, w := range view.Addresses {
		if !listed[addr.String()] {
			s.Addresses = append(s.Addresses, status.Address{Address: addr.String(), Announced: &status.Announced{Holder: w.Holder, Since: w.Since, Why: w.Why}})
		}
	}
	slices.SortStableFunc(s.Addresses, func(a, b status.Address) int { return compareText(a.Address, b.Address) })
}

// problems are the addresses that other hosts have, and the names that two agents have.
func (n *announcing) problems() []status.Problem {
	if n == nil {
		return nil
	}
	all := n.conflicts.list(n.announcer.View())
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.group != nil {
		for _, c := range n.group.Conflicts() {
			all = append(all, status.Problem{Object: "Node " + c.Name, Message: c.String(), Since: c.Since})
		}
	}
	return all
}

// counts is for the metrics.
func (n *announcing) counts() (c serve.Announced) {
	if n == nil {
		return c
	}
	view := n.announcer.View()
	return serve.Announced{Announces: true, Held: view.Held, Moves: view.Moves, Members: len(view.Members)}
}

// compareText orders addresses that are written out.
func compareText(a, b string) int {
	x, _ := netip.ParseAddr(a)
	y, _ := netip.ParseAddr(b)
	return x.Compare(y)
}

// conflict is called when another host has an address.
func (n *announcing) conflict(addr netip.Addr, services []string, mac string) {
	n.mu.Lock()
	var of []*v1.Service
	for _, name := range services {
		namespace, base, _ := strings.Cut(name, "/")
		if svc := n.services[types.NamespacedName{Namespace: namespace, Name: base}]; svc != nil {
			of = append(of, svc)
		}
	}
	n.mu.Unlock()
	n.log.WithFields(logrus.Fields{"address": addr, "mac": mac}).Warn("another host has the address of a service")
	n.conflicts.found(addr, of, mac, n.announcer.View().Addresses[addr].Holder)
}

// conflicts are addresses that other hosts have.
type conflicts struct {
	recorder events.EventRecorder

	mu    sync.Mutex
	since map[netip.Addr]conflict
}

type conflict struct {
	mac      string
	services []string
	at       time.Time
}

// reasonConflict is that of events on Services.
const reasonConflict = "AddressConflict"

func (c *conflicts) found(addr netip.Addr, of []*v1.Service, mac, holder string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since == nil {
		c.since = map[netip.Addr]conflict{}
	}
	known := c.since[addr]
	found := conflict{mac: mac, at: known.at}
	if known.mac != mac {
		found.at = time.Now()
	}
	for _, svc := range of {
		found.services = append(found.services, svc.Namespace+"/"+svc.Name)
		if c.recorder != nil {
			ref := &v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID}
			c.recorder.Eventf(ref, nil, v1.EventTypeWarning, reasonConflict, "Announce", "%s", conflictMessage(addr, mac, holder))
		}
	}
	c.since[addr] = found
}

// conflictMessage says that another host has an address, which the holder announces nevertheless, if there is one.
func conflictMessage(addr netip.Addr, mac, holder string) string {
	if holder == "" {
		return fmt.Sprintf("%s is not announced: the host %s has it", addr, mac)
	}
	return fmt.Sprintf("%s is announced by %s, but the host %s has it, too: clients may reach either", addr, holder, mac)
}

// list are the conflicts that there still are.
func (c *conflicts) list(view *announce.View) (problems []status.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr, found := range c.since {
		now, known := view.Addresses[addr]
		if !known || now.Conflict == "" && now.Holder != "" {
			delete(c.since, addr)
			continue
		}
		for _, name := range found.services {
			problems = append(problems, status.Problem{Object: "Service " + name, Field: "status.loadBalancer.ingress", Message: conflictMessage(addr, found.mac, now.Holder), Since: found.at})
		}
	}
	slices.SortFunc(problems, func(a, b status.Problem) int { return strings.Compare(a.Object+a.Message, b.Object+b.Message) })
	return problems
}
