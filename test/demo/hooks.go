// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/test/cluster"
)

// The hooks that can do the work, by the counters that show it. Other counters show the other half of such work
// (replies on the stack path, getpeername), or no work at all.
const (
	xdpExpress    = "xdp/express"
	tcExpress     = "tc-ingress/express"
	tcStack       = "tc-ingress/stack"
	podStack      = "tc-pod/stack"
	socketConnect = "sock/sock-connect"
	socketSendmsg = "sock/sock-sendmsg"
)

var workers = []string{tcStack, xdpExpress, tcExpress, podStack, "tc-pod/express", socketConnect, socketSendmsg}

// hookName returns the name of a hook for the tables.
func hookName(counter string, v6 bool) string {
	family := "4"
	if v6 {
		family = "6"
	}
	switch counter {
	case socketConnect:
		return "socket connect" + family
	case socketSendmsg:
		return "socket sendmsg" + family
	case podStack:
		return "tc pod"
	}
	hook, verdict, _ := strings.Cut(counter, "/")
	return strings.TrimSuffix(hook, "-ingress") + " " + verdict
}

// counted are the counters of both nodes, as "node counter".
type counted map[string]uint64

func (d *demo) count() (counted, error) {
	all := counted{}
	for _, a := range d.agents {
		counters, err := a.Counters()
		if err != nil {
			return nil, err
		}
		for name, n := range counters {
			if interesting(name) {
				all[key(a, name)] = n
			}
		}
	}
	return all, nil
}

func key(a *cluster.Agent, counter string) string { return a.Node.Name + " " + counter }

func interesting(counter string) bool {
	return slices.Contains(workers, counter) || failure(counter)
}

func failure(counter string) bool {
	return strings.Contains(counter, "/drop") || strings.Contains(counter, "/refused")
}

// countSettled counts when the last connection has ended completely: a server's FIN may come after the client has its
// answer.
func (d *demo) countSettled() (counted, error) {
	const quiet = 10 * time.Millisecond
	before, err := d.count()
	for range 20 {
		if err != nil {
			return nil, err
		}
		time.Sleep(quiet)
		var now counted
		if now, err = d.count(); err == nil && len(now.since(before)) == 0 {
			return now, nil
		}
		before = now
	}
	return before, err
}

func (c counted) since(before counted) counted {
	out := counted{}
	for k, n := range c {
		if n > before[k] {
			out[k] = n - before[k]
		}
	}
	return out
}

// straggling reports whether such packets may come beside those of the check: a few late ones of the check before,
// and a few that tc sends for XDP while a neighbour's Ethernet address is not known.
func straggling(key string, moved counted) bool {
	const few = 2
	if failure(key) {
		return false
	}
	if node, ok := strings.CutSuffix(key, " "+tcExpress); ok && moved[key] < moved[node+" "+xdpExpress] {
		return true
	}
	return moved[key] <= few
}

// judge compares the hooks that did the work with those that should have, on one node. It returns
// their names.
func (moved counted) judge(node *cluster.Agent, want []string, v6 bool) (names, problems []string) {
	for _, k := range sortedByWorker(moved) {
		on, counter, _ := strings.Cut(k, " ")
		expected := on == node.Node.Name && slices.Contains(want, counter)
		switch {
		case expected:
			names = append(names, hookName(counter, v6))
		case !straggling(k, moved):
			problems = append(problems, fmt.Sprintf("%s on %s did what it should not (%d packets)",
				hookName(counter, v6), on, moved[k]))
		}
	}
	for _, counter := range want {
		if moved[key(node, counter)] == 0 {
			problems = append(problems, fmt.Sprintf("%s on %s did nothing", hookName(counter, v6), node.Node.Name))
		}
	}
	return names, problems
}

func sortedByWorker(moved counted) []string {
	place := func(k string) int {
		_, counter, _ := strings.Cut(k, " ")
		return slices.Index(workers, counter)
	}
	var keys []string
	for k := range moved {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return place(a) - place(b) })
	return keys
}
