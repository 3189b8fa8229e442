// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var moves = part{what: "A LoadBalancer address moves", how: "XDP answers ARP; the agents agree which node does"}

var moveColumns = columns{
	{"WHEN", 34}, {"ADDRESS", 15}, {"ANNOUNCED BY", 12}, {"LAPTOP SENDS TO", 17}, {"RESULT", 0},
}

// memberFlags have the agents agree which of them announces an address.
func (d *demo) memberFlags() ([]string, error) {
	key := filepath.Join(d.dir, "members.key")
	var peers []string
	for _, node := range d.net.Nodes {
		peers = append(peers, node.IP4.String())
	}
	return []string{"--peers=" + strings.Join(peers, ","), "--members-key-file=" + key},
		os.WriteFile(key, []byte("a secret that only this demo uses\n"), 0o600)
}

// holder returns the agent of the node that announces an address, in the eyes of one agent; nil: there is none yet.
func (d *demo) holder(in *cluster.Agent, addr netip.Addr) (*cluster.Agent, error) {
	out, err := in.CLI("address", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	var all []status.Address
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Address != addr.String() || a.Announced == nil {
			continue
		}
		i := slices.IndexFunc(d.agents, func(a2 *cluster.Agent) bool { return a2.Node.Name == a.Announced.Holder })
		if i >= 0 {
			return d.agents[i], nil
		}
	}
	return nil, nil
}

// awaitHolder waits until some agents agree that a node other than `not` announces an address.
func (d *demo) awaitHolder(agents []*cluster.Agent, addr netip.Addr, not *cluster.Agent) (*cluster.Agent, error) {
	const atMost = 30 * time.Second
	var errs []error
	for deadline := time.Now().Add(atMost); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var found []*cluster.Agent
		errs = nil
		for _, a := range agents {
			holder, err := d.holder(a, addr)
			errs = append(errs, err)
			found = append(found, holder)
		}
		if all := slices.Compact(found); len(all) == 1 && all[0] != nil && all[0] != not {
			return all[0], nil
		}
	}
	return nil, errors.Join(append(errs, fmt.Errorf("no node announces %s", addr))...)
}

// sendsTo is where the laptop's kernel sends packets to an address: what was answered to it by ARP.
func (d *demo) sendsTo(addr netip.Addr) (net.HardwareAddr, error) {
	neighbours, err := d.net.Laptop.Netlink().NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	for _, n := range neighbours {
		if n.IP.Equal(addr.AsSlice()) {
			return n.HardwareAddr, nil
		}
	}
	return nil, nil
}

// checkMoves shows and judges that an address goes to another node when its agent dies, and comes back with it.
func (d *demo) checkMoves(ctx context.Context) error {
	to := d.publicIP(publicService, false)
	d.heading(moves.what, `The laptop asks the address of myapp-public. It has no route there: it knows by ARP which node
		announces the address. Then the agent of that node is killed.`)
	t := &table{columns: moveColumns}
	defer func() { d.write(t) }()
	d.summary.parts = append(d.summary.parts, moves)
	first, err := d.awaitHolder(d.agents, to.Addr(), nil)
	if err != nil {
		return err
	}
	asking := d.startAsking(to)
	defer asking.stop()
	rest := slices.DeleteFunc(slices.Clone(d.agents), func(a *cluster.Agent) bool { return a == first })
	for _, s := range []struct {
		title  string
		change func() error
		agents []*cluster.Agent // that run then
		not    *cluster.Agent
	}{
		{"before", func() error { return nil }, d.agents, nil},
		{"its agent is dead (SIGKILL)", func() error { first.Kill(); return nil }, rest, first},
		{"that agent is back", func() error { return first.Start() }, d.agents, rest[0]},
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.progress("%s ...", s.title)
		if err := s.change(); err != nil {
			return err
		}
		holder, err := d.awaitHolder(s.agents, to.Addr(), s.not)
		if err != nil {
			return err
		}
		d.judgeMove(t, s.title, to.Addr(), holder, asking)
	}
	asking.stop()
	p := &d.summary.parts[len(d.summary.parts)-1]
	p.requests += asking.requests
	d.summary.figures.silence, d.summary.figures.failed = asking.silence, asking.failed
	return nil
}

// judgeMove judges where the laptop sends, and whether it gets answers, with an address at a node.
func (d *demo) judgeMove(t *table, title string, addr netip.Addr, holder *cluster.Agent, asking *asking) {
	p := &d.summary.parts[len(d.summary.parts)-1]
	p.checks++
	var problems []string
	want, err := holder.Node.MAC("eth0")
	at := net.HardwareAddr(nil)
	for deadline := time.Now().Add(patience); err == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if at, err = d.sendsTo(addr); at.String() == want.String() {
			break
		}
	}
	switch {
	case err != nil:
		problems = append(problems, err.Error())
	case at.String() != want.String():
		problems = append(problems, fmt.Sprintf("the laptop sends to %s, and %s has %s", at, holder.Node.Name, want))
	case !asking.answered(patience):
		problems = append(problems, "no answer: "+asking.last())
	}
	result := line("ok")
	if len(problems) > 0 {
		p.wrong++
		result = wrong(problems)
	}
	t.add(line(title), line(addr.String()), line(holder.Node.Name), line(at.String()), result)
}

// asking is a client that asks an address all the time.
type asking struct {
	load *topo.Load

	mu       sync.Mutex
	requests int
	failed   int
	at       time.Time     // of the last answer
	silence  time.Duration // the longest time between two answers
	err      string        // of the last request; "" if it was answered
}

func (d *demo) startAsking(to netip.AddrPort) *asking {
	const pause = 10 * time.Millisecond
	a, laptop := &asking{}, d.askers["laptop"]
	a.load = topo.StartLoad(1, pause, func(int) topo.Reply {
		// A connection whose packets come to another node half way gets no answer: the next request is to follow soon.
		reply := laptop.Get(topo.Request{To: to, Timeout: patience / 10, Size: 64})
		a.note(reply)
		return reply
	})
	return a
}

func (a *asking) note(reply topo.Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests++
	a.err = reply.Err
	if !reply.OK() {
		a.failed++
		return
	}
	now := time.Now()
	if !a.at.IsZero() {
		a.silence = max(a.silence, now.Sub(a.at))
	}
	a.at = now
}

// answered waits until a request is answered that began after the call.
func (a *asking) answered(atMost time.Duration) bool {
	began := time.Now()
	for time.Since(began) < atMost {
		time.Sleep(10 * time.Millisecond)
		a.mu.Lock()
		at := a.at
		a.mu.Unlock()
		if at.Sub(began) > patience/10 { // longer than a request takes
			return true
		}
	}
	return false
}

func (a *asking) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *asking) stop() {
	if a.load != nil {
		a.load.Stop()
		a.load = nil
	}
}
