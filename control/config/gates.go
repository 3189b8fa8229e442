// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"maps"
	"slices"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
)

// errUnknownGate is why a gate of another version of Kubernetes is refused.
var errUnknownGate = errors.New("not known")

// splitGates separates the feature gates that can be set from those that can't, with the reasons.
// Versions of Kubernetes differ in the gates that they know, and in those that are locked, so a
// file for another version's kube-proxy must not keep the agent from starting.
func splitGates(gates map[string]bool) (accepted map[string]bool, refused map[string]error) {
	accepted, refused = map[string]bool{}, map[string]error{}
	known := utilfeature.DefaultMutableFeatureGate.GetAll()
	// A gate may depend on another one, so the loop tries the refused gates again after others
	// were accepted.
	rest := slices.Sorted(maps.Keys(gates))
	for before := -1; before != len(rest); {
		before = len(rest)
		rest = slices.DeleteFunc(rest, func(gate string) bool {
			if _, ok := known[featuregate.Feature(gate)]; !ok {
				refused[gate] = errUnknownGate
				return false
			}
			accepted[gate] = gates[gate]
			if refused[gate] = utilfeature.DefaultFeatureGate.DeepCopy().SetFromMap(accepted); refused[gate] != nil {
				delete(accepted, gate)
				return false
			}
			delete(refused, gate)
			return true
		})
	}
	return accepted, refused
}

// SetFeatureGates sets the gates of Kubernetes' libraries, for the whole process.
func (s *Settings) SetFeatureGates() error {
	return utilfeature.DefaultMutableFeatureGate.SetFromMap(s.FeatureGates)
}
