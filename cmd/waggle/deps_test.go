// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	const self = module + "cmd/waggle"
	imports := importsOf(t, "-deps", self)
	for _, unwanted := range heavy {
		if chain := shortestChain(imports, self, unwanted); chain != nil {
			t.Errorf("%s is back:\n\t%s", unwanted, strings.Join(chain, "\n\t"))
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
