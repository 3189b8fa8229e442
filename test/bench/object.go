// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/test/topo"
)

// objectStates are this datapath, and the other one on the same maps.
var objectStates = []watchState{{name: ""}, {name: "the other", twin: true}}

// measureObject measures this datapath beside another one, as of the commit before. The layouts of the maps must be
// the same. The other's constants are what its object says.
func measureObject(o options) (results []Result, err error) {
	if o.object == "" {
		return nil, errors.New("-object FILE: which datapath is to be measured beside this one?")
	}
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	steps := stateSteps(o)
	datagrams := steps[len(steps)-1]
	datagrams.kind = kindDatagrams
	for _, step := range append(steps, datagrams) {
		got, err := measureStates(o, network, step, objectStates, func(r *hotRig) error {
			spec, err := hotSpec(ebpf.LoadCollectionSpec(o.object))
			if err != nil {
				return err
			}
			return r.loadBeside(spec)
		})
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
	}
	return results, nil
}
