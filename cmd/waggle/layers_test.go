// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers are the packages that the command is made of, from the ground up. A package imports only what is
// in a row below its own, so those of one row don't know each other.
var layers = [][]string{
	{"bpf"},
	{"maps", "loader/netdump"},
	{"loader"},
	{"control/atomicfile", "control/conntrack", "control/drift", "control/ipvs", "control/layer2", "control/netns", "control/pulse", "control/xtables"},
	{"control/config", "control/explain", "control/leftovers", "control/netfilter", "control/plan", "control/pools", "control/rundir", "control/upgrade"},
	{"control/reconcile", "control/status"},
	{"control/announce", "control/assign", "control/members", "control/source"},
	{"control/kube", "control/manifest"},
	{"control/canary", "control/flows", "control/names", "control/node", "control/serve", "control/takeover"},
	{"control"},
	{"cmd/waggle"},
}

// fixtures are packages that only tests import.
var fixtures = []string{"maps/mapstest", "loader/loadertest", "control/netns/netnstest", "control/serve/servetest"}

const module = "github.com/waggle-lb/waggle/"

// TestLayers: nothing imports upward.
func TestLayers(t *testing.T) {
	row := map[string]int{}
	for i, layer := range layers {
		for _, pkg := range layer {
			row[pkg] = i
		}
	}
	imports := importsOf(t, module+"bpf/...", module+"maps/...", module+"loader/...", module+"control/...", module+"cmd/...")
	for path, all := range imports {
		pkg := strings.TrimPrefix(path, module)
		if slices.Contains(fixtures, pkg) {
			continue
		}
		own, known := row[pkg]
		if !known {
			t.Errorf("%s is in no layer", pkg)
			continue
		}
		delete(row, pkg)
		for _, imported := range all {
			name, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if below := slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, name) }); below < 0 || below >= own {
				t.Errorf("%s imports %s, which is not below it", pkg, name)
			}
		}
	}
	for pkg := range row {
		t.Errorf("there is no package %s", pkg)
	}
}

// TestStatusIsLight: a package that reads an agent's status, or starts agents in tests, does not compile the agent.
func TestStatusIsLight(t *testing.T) {
	for _, c := range []struct {
		pkg     string
		without []string // packages, and those below one that ends in a slash
	}{
		{"control/status", []string{module + "control", module + "bpf", module + "maps", module + "loader", "github.com/cilium/", "github.com/vishvananda/", "k8s.io/"}},
		{"test/cluster", []string{module + "control", "k8s.io/"}},
		{"test/demo", []string{module + "control"}},
	} {
		imports := importsOf(t, "-deps", module+c.pkg)
		for _, unwanted := range c.without {
			for pkg := range imports {
				if pkg == unwanted || strings.HasSuffix(unwanted, "/") && strings.HasPrefix(pkg, unwanted) {
					t.Errorf("%s has %s:\n\t%s", c.pkg, pkg, strings.Join(shortestChain(imports, module+c.pkg, pkg), "\n\t"))
					break
				}
			}
		}
	}
}

// importsOf asks `go list`, with arguments, what packages import.
func importsOf(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-f", `{{.ImportPath}} {{join .Imports " "}}`}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		imports[fields[0]] = fields[1:]
	}
	if len(imports) == 0 {
		t.Fatalf("go list %s says nothing", args)
	}
	return imports
}
