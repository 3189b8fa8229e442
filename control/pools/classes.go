// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// NoClass stands for Services without a spec.loadBalancerClass.
const NoClass = "none"

// Classes are the values of spec.loadBalancerClass that get addresses; NoClass stands for none. Empty: NoClass alone.
type Classes []string

// Have reports whether a Service is of one of the classes.
func (c Classes) Have(s *v1.Service) bool {
	class := NoClass
	if s.Spec.LoadBalancerClass != nil {
		class = *s.Spec.LoadBalancerClass
	}
	if len(c) == 0 {
		return class == NoClass
	}
	return slices.Contains(c, class)
}
