// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// setFamilies completes ipFamilyPolicy and ipFamilies as the API server does when a Service is
// created (initIPFamilyFields, which is not usable without its storage). The Service has been
// validated: its clusterIPs and ipFamilies are well formed and agree.
func (r ranges) setFamilies(s *v1.Service) field.ErrorList {
	if s.Spec.Type == v1.ServiceTypeExternalName {
		return nil
	}
	bare := s.Spec.ClusterIP == v1.ClusterIPNone && len(s.Spec.Selector) == 0
	setFamilyPolicy(s, bare)
	if errs := r.familiesOfClusterIPs(s); len(errs) > 0 {
		return errs
	}
	if !bare {
		if errs := r.validateFamilies(s); len(errs) > 0 {
			return errs
		}
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []v1.IPFamily{r.defaultFamily()}
	}
	// Users write the endpoints of a headless Service without selector, in either family.
	dual := *s.Spec.IPFamilyPolicy != v1.IPFamilyPolicySingleStack && (bare || r.dualStack())
	if dual && len(s.Spec.IPFamilies) == 1 {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, otherFamily(s.Spec.IPFamilies[0]))
	}
	return nil
}

// setFamilyPolicy takes two cluster IPs for a request of both families. The API server also
// requires the policy.
func setFamilyPolicy(s *v1.Service, bare bool) {
	switch {
	case s.Spec.IPFamilyPolicy != nil:
	case bare || len(s.Spec.ClusterIPs) == 2:
		s.Spec.IPFamilyPolicy = ptr.To(v1.IPFamilyPolicyRequireDualStack)
	default:
		s.Spec.IPFamilyPolicy = ptr.To(v1.IPFamilyPolicySingleStack)
	}
}

// familiesOfClusterIPs infers the families of the addresses that were given.
func (r ranges) familiesOfClusterIPs(s *v1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if *s.Spec.IPFamilyPolicy == v1.IPFamilyPolicySingleStack && max(len(s.Spec.ClusterIPs), len(s.Spec.IPFamilies)) > 1 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), *s.Spec.IPFamilyPolicy,
			"must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs or IP families are specified"))
	}
	if s.Spec.ClusterIP == v1.ClusterIPNone {
		return errs
	}
	for i := len(s.Spec.IPFamilies); i < len(s.Spec.ClusterIPs); i++ {
		a, _ := parseAddr(s.Spec.ClusterIPs[i])
		if f := familyOf(a); r.has(f) {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
		} else {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(i), s.Spec.ClusterIPs[i],
				fmt.Sprintf("%s is not configured on this cluster", f)))
		}
	}
	return errs
}

func (r ranges) validateFamilies(s *v1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if *s.Spec.IPFamilyPolicy == v1.IPFamilyPolicyRequireDualStack && !r.dualStack() {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), *s.Spec.IPFamilyPolicy,
			"this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if !r.has(f) {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

func otherFamily(f v1.IPFamily) v1.IPFamily {
	if f == v1.IPv4Protocol {
		return v1.IPv6Protocol
	}
	return v1.IPv4Protocol
}
