// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"
)

// summary is what the demo says at the end, on one screen.
type summary struct {
	parts   []part
	figures figures
	elapsed time.Duration
}

// part is a row of the summary: checks with something in common.
type part struct {
	what, how     string
	checks, wrong int
	requests      int
}

// figures are measured while traffic flows.
type figures struct {
	firstAnswer, lastAnswer time.Duration // since the manifest of a pod came, or went
	withoutAgent            int           // requests while the agent of node-1 was dead
	silence                 time.Duration // the longest without an answer while an address moved
	failed                  int           // requests that were on their way then, and got no answer
}

var summaryColumns = columns{
	{"WHAT WAS CHECKED", 0}, {"WHAT DID THE WORK", 0}, {"CHECKS", 0}, {"REQUESTS", 0}, {"RESULT", 0},
}

func (s *summary) totals() (all part) {
	for _, p := range s.parts {
		all.checks += p.checks
		all.wrong += p.wrong
		all.requests += p.requests
	}
	return all
}

// summarize shows the summary. hold says that the network stays: what to try in it follows.
func (d *demo) summarize(hold bool) {
	s := &d.summary
	d.heading("Summary", "")
	t := &table{columns: summaryColumns}
	for _, p := range s.parts {
		result := "ok"
		if p.wrong > 0 {
			result = fmt.Sprintf("%s %d of %d", wrongMark, p.wrong, p.checks)
		}
		t.add(line(p.what), line(p.how), line(fmt.Sprint(p.checks)), line(fmt.Sprint(p.requests)), line(result))
	}
	d.write(t)
	all, seconds := s.totals(), s.elapsed.Round(100*time.Millisecond)
	if all.wrong > 0 {
		d.print("\n%s", d.style.red(fmt.Sprintf("%s %d of %d checks failed (%d requests, %s).", wrongMark, all.wrong, all.checks, all.requests, seconds)))
		d.print("Manifests, and the logs of the agents: %s", d.dir)
		return
	}
	d.explainFigures(all)
	if !hold {
		d.suggest()
	}
	failed := "none failed"
	if s.figures.failed > 0 {
		failed = fmt.Sprintf("%d failed while the address moved", s.figures.failed)
	}
	d.print("\n%s", d.style.green(fmt.Sprintf("OK: all %d checks passed. %d requests, %s. %s.", all.checks, all.requests, failed, seconds)))
}

func (d *demo) suggest() {
	d.print("\n   %s", d.style.bold("What to try next"))
	for _, next := range []struct{ where, what string }{
		{"make demo HOLD=1", "keep this network, and send requests, change manifests, look at flows in it"},
		{"docs/install.md", "install waggle: on one machine, or in a cluster"},
		{"docs/kubernetes.md", "move a cluster from kube-proxy to waggle, and back"},
		{"docs/design.md", "how the programs decide about a packet"},
	} {
		d.print("     %-18s  %s", next.where, next.what)
	}
}

func (d *demo) explainFigures(all part) {
	f := d.summary.figures
	d.print("\n   %s", d.style.bold("What the numbers mean"))
	for _, row := range []struct {
		number any
		text   string
	}{
		{milliseconds(f.firstAnswer), "from writing the YAML of a new pod to its first answer"},
		{milliseconds(f.lastAnswer), "from deleting the YAML of a pod to its last answer to a new connection"},
		{f.withoutAgent, "connections that succeeded while no agent ran on node-1 (the eBPF programs work without the agent)"},
		{milliseconds(f.silence), "the longest time without an answer while the LoadBalancer address moved, there and back"},
		{f.failed, fmt.Sprintf("of %d requests failed", all.requests)},
		{"", "Pods saw the client's address, except for requests that another node forwarded"},
	} {
		d.print("     %7v  %s", row.number, row.text)
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", max(0, d.Milliseconds())) }
