// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// heavy are modules that the command does without: each brings hundreds of packages, which cost
// every build and every agent's memory.
var heavy = []string{"k8s.io/apiserver", "k8s.io/cloud-provider", "go.etcd.io", "google.golang.org/grpc", "github.com/google/cel-go", "cel.dev"}

// light are packages of these modules that bring nothing: Kubernetes' own packages for Services ask
// them for feature gates.
var light = []string{"k8s.io/apiserver/pkg/features", "k8s.io/apiserver/pkg/util/feature"}

// TestDependencies names the chain of imports by which a heavy package comes back.
func TestDependencies(t *testing.T) {
	const self = "github.com/waggle-lb/waggle/cmd/waggle"
	imports := map[string][]string{}
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, self).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		imports[fields[0]] = fields[1:]
	}
	if len(imports[self]) == 0 {
		t.Fatalf("go list says nothing of %s: %s", self, out)
	}
	for _, module := range heavy {
		if chain := shortestChain(imports, self, module); chain != nil {
			t.Errorf("%s is back:\n\t%s", module, strings.Join(chain, "\n\t"))
		}
	}
}

// shortestChain leads from a package to the nearest one of a heavy module; nil if there is none.
func shortestChain(imports map[string][]string, from, module string) []string {
	reached := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		pkg := chain[len(chain)-1]
		if !slices.Contains(light, pkg) && (pkg == module || strings.HasPrefix(pkg, module+"/")) {
			return chain
		}
		for _, next := range imports[pkg] {
			if !reached[next] {
				reached[next] = true
				queue = append(queue, append(slices.Clone(chain), next))
			}
		}
	}
	return nil
}
