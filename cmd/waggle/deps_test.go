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

// TestNamesAreLight: what answers names brings the DNS library and what of golang.org/x/net that uses, and nothing else.
func TestNamesAreLight(t *testing.T) {
	const library = "github.com/miekg/dns"
	var more []string
	for pkg := range importsOf(t, "-deps", library) {
		host, _, _ := strings.Cut(pkg, "/")
		if strings.Contains(host, ".") && !strings.HasPrefix(pkg, "golang.org/x/sys/") {
			more = append(more, pkg)
		}
	}
	slices.Sort(more)
	if want := []string{library, "golang.org/x/net/bpf", "golang.org/x/net/internal/iana", "golang.org/x/net/internal/socket",
		"golang.org/x/net/ipv4", "golang.org/x/net/ipv6"}; !slices.Equal(more, want) {
		t.Errorf("it brings %q, want %q", more, want)
	}
	for pkg, imports := range importsOf(t, module+"...") {
		if slices.Contains(imports, library) && pkg != module+"control/names" {
			t.Errorf("%s imports %s, too", pkg, library)
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
