// SPDX-License-Identifier: Apache-2.0

// Command bench measures waggle beside its peers and beside the limit, in one run on one machine.
// It prints tables, writes the same as JSON, and compares the ratios with those on record.
// docs/performance.md explains each figure.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/test/topo"
)

// options are the options of a run.
type options struct {
	quick  bool
	runs   int
	waggle string // the command; built if it does not exist
	before string // another build of the command, which is measured beside it where agents start; may be empty
	object string // another compiled datapath, which is measured beside this one; may be empty
	peers  string // the directory of kube-proxy; empty: no peers
	out    string // the directory for the JSON
}

// group is a set of measurements that share a table.
type group struct {
	name, title string
	measure     func(options) ([]Result, error)
}

var groups = []group{
	{"hot", "Hot path: ns a packet, harness subtracted", measureHot},
	{"table", "Table alone: ns of a lookup, or of a flow's two insertions, harness and key subtracted", measureTable},
	{"monitor", "Monitor and counters: ns a packet, harness subtracted, without a monitor, and beside it with one, and without counters", measureMonitor},
	{"object", "Two datapaths (-object): ns a packet, harness subtracted", measureObject},
	{"forward", "Forwarding: thousands of packets a second, through a node", measureForward},
	{"sockets", "Sockets: microseconds, from a pod to a cluster IP", measureSockets},
	{"churn", "First packet and churn: from a pod to a cluster IP, and from an event to its effect", measureChurn},
	{"programming", "Programming: from objects to a kernel that serves them", measureProgramming},
	{"start", "Start: of an agent on a small cluster, and on a large one", measureStart},
	{"agent", "Agent: processor time by what changes on a node", measureAgentTime},
	{"scale", "Scale: memory, and nanoseconds a packet as tables grow", measureScale},
}

func main() {
	topo.Main()
	socketMain()
	var o options
	var only, check, record string
	flag.BoolVar(&o.quick, "quick", false, "fewer flows and services, shorter runs: to see that it works")
	flag.IntVar(&o.runs, "runs", 7, "how often each case is measured; the cases take turns")
	flag.StringVar(&o.waggle, "waggle", "build/waggle", "the command to measure")
	flag.StringVar(&o.before, "before", "", "another build of the command, to be measured beside it (start, agent, churn)")
	flag.StringVar(&o.object, "object", "", "another compiled datapath, such as bpf/waggle_bpfel.o of another commit, to be measured beside this one (object)")
	flag.StringVar(&o.peers, "kubernetes", "build/kubernetes", "the directory of kube-proxy; it is left out if there is none")
	flag.StringVar(&o.out, "out", "build/bench", "the directory of the JSON files")
	flag.StringVar(&only, "only", "", "groups to measure, with commas between them: "+strings.Join(groupNames(), ", "))
	flag.StringVar(&check, "check", "", "compare the ratios with those of this kind of processor in this file, and fail on a loss of more than a quarter")
	flag.StringVar(&record, "record", "", "write the ratios to this file, as those of this kind of processor")
	flag.Parse()
	logrus.SetOutput(io.Discard)
	if err := run(o, only, check, record); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

func groupNames() (names []string) {
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

func run(o options, only, check, record string) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and loads eBPF programs: run it as root")
	}
	wanted := groupNames()
	if o.object == "" {
		wanted = slices.DeleteFunc(wanted, func(name string) bool { return name == "object" })
	}
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(groupNames(), name) {
			return fmt.Errorf("no group %q: there are %s", name, strings.Join(groupNames(), ", "))
		}
	}
	kind, err := processorKind()
	if err != nil {
		return err
	}
	var recorded map[string]float64
	if check != "" { // before minutes of measuring
		if recorded, err = ratiosOnRecord(check, kind); err != nil {
			return err
		}
	}
	var all []Result
	for _, g := range groups {
		if !slices.Contains(wanted, g.name) {
			continue
		}
		started := time.Now()
		results, err := g.measure(o)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		printTable(os.Stdout, g.title, results)
		fmt.Fprintf(os.Stderr, "bench: %s took %v\n", g.name, time.Since(started).Round(time.Second))
		if err := writeJSON(o.out, g.name, results); err != nil {
			return err
		}
		all = append(all, results...)
	}
	switch {
	case record != "":
		return recordRatios(record, kind, all)
	case check != "":
		return checkRatios(os.Stdout, recorded, all)
	}
	return nil
}
