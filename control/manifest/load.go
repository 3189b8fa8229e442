// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"io/fs"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control/status"
)

// Snapshot has the objects of a directory of manifests, each kind in the order of namespaces and
// names.
type Snapshot struct {
	Nodes          []*v1.Node
	Services       []*v1.Service
	EndpointSlices []*discovery.EndpointSlice
	Problems       []status.Problem
}

// Load reads a directory once. It reads the allocation file but doesn't write it: what it allocates
// itself is what a Source would allocate.
func Load(opts Options) (*Snapshot, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	opts.CacheDir, opts.Brake = "", nil
	found := newProblems(opts.Log)
	state := newState(opts, found, true)
	files, err := state.tree.scan(look{}, func(string, fs.FileInfo) {})
	state.apply(context.Background(), files, err)
	return &Snapshot{
		Nodes:          inOrder(state.nodes),
		Services:       inOrder(state.services),
		EndpointSlices: inOrder(state.slices),
		Problems:       found.list(),
	}, nil
}

func inOrder[T any](c *collection[T]) []*T {
	var all []*T
	for _, key := range slices.SortedFunc(maps.Keys(c.objects), compareKeys) {
		all = append(all, c.objects[key])
	}
	return all
}
