// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/cilium/ebpf"
)

// objectStates are this datapath, and the other one on the same maps.
var objectStates = []watchState{{name: ""}, {name: "the other", twin: true}}

// measureObject measures this datapath beside another one, as of the commit before. The layouts of the maps must be
// the same. The other's constants are what its object says.
func measureObject(o options) ([]Result, error) {
	if o.object == "" {
		return nil, errors.New("-object FILE: which datapath is to be measured beside this one?")
	}
	steps := stateSteps(o)
	datagrams := steps[len(steps)-1]
	datagrams.kind = kindDatagrams
	return measureSteps(o, append(steps, datagrams), objectStates, func(r *hotRig) error {
		spec, err := hotSpec(ebpf.LoadCollectionSpec(o.object))
		if err != nil {
			return err
		}
		return r.loadBeside(spec)
	})
}
