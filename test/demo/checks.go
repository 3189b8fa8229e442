// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// check is a way to a service.
type check struct {
	from *asker
	to   netip.AddrPort
	what string // the name of to, for the table
	udp  bool
	pods []*place // that must answer
	// enters is the node at which the requests of the laptop enter the cluster.
	enters *cluster.Agent
}

// findings are the results of a check.
type findings struct {
	answers  map[*place]int
	sawAs    map[*place][]netip.Addr
	requests int
	problems []string
	hooks    []string
}

const (
	enough   = 12  // requests, so that a result is not by chance
	tooMany  = 300 // with 3 pods, the chance that one gets none of them is 1 in 10^52
	patience = 2 * time.Second
)

// run asks until every pod has answered, and often enough, and judges answers and hooks.
func (d *demo) run(c check) (*findings, error) {
	before, err := d.countSettled()
	if err != nil {
		return nil, err
	}
	f := &findings{answers: map[*place]int{}, sawAs: map[*place][]netip.Addr{}}
	for f.requests < enough || len(f.answers) < len(c.pods) && f.requests < tooMany {
		reply := c.ask(f.requests)
		f.requests++
		if problem := f.note(c, reply); problem != "" {
			f.problems = append(f.problems, problem)
			break // the next ones would fail in the same way
		}
	}
	for _, p := range c.pods {
		if f.answers[p] == 0 && len(f.problems) == 0 {
			f.problems = append(f.problems, fmt.Sprintf("%s never answered", p.Name))
		}
	}
	after, err := d.countSettled()
	if err != nil {
		return nil, err
	}
	node, hooks := c.expectedHooks()
	names, problems := after.since(before).judge(node, hooks, c.v6())
	f.hooks, f.problems = names, append(f.problems, problems...)
	return f, nil
}

func (c check) v6() bool { return c.to.Addr().Is6() }

// ask makes a request. Every other datagram leaves by sendto, from a socket that isn't connected.
func (c check) ask(i int) topo.Reply {
	request := topo.Request{To: c.to, Timeout: patience, Size: 64}
	switch {
	case !c.udp:
		return c.from.Get(request)
	case i%2 == 0:
		return c.from.UDPConnected(request)
	}
	return c.from.UDPUnconnected(request)
}

// note counts an answer, and returns what is wrong with it.
func (f *findings) note(c check, r topo.Reply) string {
	if !r.OK() {
		return "request failed: " + r.Err
	}
	i := slices.IndexFunc(c.pods, func(p *place) bool { return p.Name == r.Pod })
	if i < 0 {
		return fmt.Sprintf("answered by %s, which is not of this service", r.Pod)
	}
	pod, client := c.pods[i], r.Remote.Addr()
	f.answers[pod]++
	if !slices.Contains(f.sawAs[pod], client) {
		f.sawAs[pod] = append(f.sawAs[pod], client)
	}
	if want := c.clientAddrs(pod.Node); !slices.Contains(want, client) {
		return fmt.Sprintf("%s saw %s, not %s", pod.Name, client, list(want, " or "))
	}
	for _, peer := range []netip.AddrPort{r.Peer, r.Source} {
		if peer.IsValid() && peer != c.to {
			return fmt.Sprintf("the client saw %s as its peer", peer)
		}
	}
	return ""
}

// clientAddrs returns the addresses that a pod on a node may see: the client's own or, if the request came in by
// another node and the answer must go back through it, that node's.
func (c check) clientAddrs(podNode *topo.Node) []netip.Addr {
	if c.enters != nil && podNode != c.enters.Node {
		return ofSameFamily(c.v6(), c.enters.Node.IP4, c.enters.Node.IP6)
	}
	return ofSameFamily(c.v6(), c.from.as...)
}

func ofSameFamily(v6 bool, addrs ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is6() != v6 })
}

// expectedHooks returns the only hooks that may do the work, and their node.
func (c check) expectedHooks() (*cluster.Agent, []string) {
	if c.enters == nil {
		switch {
		case c.from.outsideCgroup():
			return c.from.node, []string{podStack}
		case c.udp && c.from.isPod(): // the connected socket by packet, the other one by socket
			return c.from.node, []string{podStack, socketSendmsg}
		case c.udp:
			return c.from.node, []string{socketConnect, socketSendmsg}
		}
		return c.from.node, []string{socketConnect}
	}
	var hooks []string
	for _, p := range c.pods {
		hook := xdpExpress
		if p.Node == c.enters.Node {
			hook = tcStack
		}
		if !slices.Contains(hooks, hook) {
			hooks = append(hooks, hook)
		}
	}
	return c.enters, hooks
}

func (a *asker) outsideCgroup() bool {
	return a.node != nil && !strings.HasPrefix(a.host.Cgroup+"/", a.node.Node.Cgroup+"/")
}

func (a *asker) isPod() bool { return a.node != nil && a.host != a.node.Node.Host }

func list[T fmt.Stringer](items []T, separator string) string {
	var out []string
	for _, item := range items {
		out = append(out, item.String())
	}
	return strings.Join(out, separator)
}
