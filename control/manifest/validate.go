// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	internaldiscovery "k8s.io/kubernetes/pkg/apis/discovery"
	discoveryv1 "k8s.io/kubernetes/pkg/apis/discovery/v1"
	discoveryvalidation "k8s.io/kubernetes/pkg/apis/discovery/validation"

	"github.com/waggle-lb/waggle/control/pools"
)

// validator defaults and validates objects one by one, with the API server's own code where it
// has some. It adds 1.6 MB to a program that has kube-proxy's library already.
type validator struct {
	ranges ranges
}

// check completes the object of a document, or notes what is wrong with it.
func (v validator) check(d *document) {
	if d.object == nil {
		return
	}
	d.unsound = append(d.unsound, d.faults(v.guarded(d))...)
}

// guarded recovers from a panic in the validation of an object, as the API server does for every
// request.
func (v validator) guarded(d *document) (errs field.ErrorList) {
	defer func() {
		if r := recover(); r != nil {
			errs = append(errs, field.InternalError(nil, fmt.Errorf("validation failed: %v", r)))
		}
	}()
	switch object := d.object.(type) {
	case *v1.Service:
		return v.service(object)
	case *v1.Pod:
		return validatePod(object)
	case *v1.Node:
		return validateNode(object)
	case *discovery.EndpointSlice:
		return validateEndpointSlice(object)
	case pools.Document:
		return append(validateName(object), object.Validate()...)
	}
	return nil
}

func (v validator) service(s *v1.Service) field.ErrorList {
	if errs := completeIngress(s); len(errs) > 0 {
		return errs
	}
	completeClusterIPs(s)
	corev1.SetObjectDefaults_Service(s)
	errs := validateServiceAlone(s)
	errs = append(errs, v.ranges.validateNodePorts(s)...)
	if len(errs) > 0 {
		return errs
	}
	if errs := v.ranges.setFamilies(s); len(errs) > 0 {
		return errs
	}
	return v.ranges.validateClusterIPs(s)
}

// completeIngress makes spec.loadBalancerIP the address of the load balancer where the file
// doesn't give one: there is no cloud controller to do so.
func completeIngress(s *v1.Service) field.ErrorList {
	ip := s.Spec.LoadBalancerIP
	if s.Spec.Type != v1.ServiceTypeLoadBalancer || ip == "" {
		return nil
	}
	if errs := validation.IsValidIPForLegacyField(field.NewPath("spec", "loadBalancerIP"), ip, nil); len(errs) > 0 {
		return errs
	}
	if len(s.Status.LoadBalancer.Ingress) == 0 {
		s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: ip}}
	}
	return nil
}

// completeClusterIPs fills in clusterIP or clusterIPs if only the other is given. The API server
// requires clusterIP.
func completeClusterIPs(s *v1.Service) {
	switch {
	case s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	case s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) > 0:
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
}

func validateServiceAlone(s *v1.Service) field.ErrorList {
	var internal core.Service
	if err := corev1.Convert_v1_Service_To_core_Service(s.DeepCopy(), &internal, nil); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		internal.Spec.HealthCheckNodePort = maxPort // the allocator sets the real one
	}
	errs := validation.ValidateServiceCreate(&internal)
	return append(errs, validation.ValidateLoadBalancerStatus(&internal.Status.LoadBalancer, nil,
		field.NewPath("status", "loadBalancer"), &internal.Spec)...)
}

// validateName checks a name as the API server does.
func validateName(object metav1.Object) field.ErrorList {
	var errs field.ErrorList
	for _, message := range apivalidation.NameIsDNSSubdomain(object.GetName(), false) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), object.GetName(), message))
	}
	return errs
}

// validateEndpointSlice requires the name of the Service in addition to what the API server
// requires: a slice without it would silently have no effect.
func validateEndpointSlice(s *discovery.EndpointSlice) field.ErrorList {
	discoveryv1.SetObjectDefaults_EndpointSlice(s)
	var internal internaldiscovery.EndpointSlice
	if err := discoveryv1.Convert_v1_EndpointSlice_To_discovery_EndpointSlice(s.DeepCopy(), &internal, nil); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := discoveryvalidation.ValidateEndpointSliceCreate(&internal)
	for i, p := range s.Ports {
		if p.Port != nil {
			errs = append(errs, validatePort(int(*p.Port), field.NewPath("ports").Index(i).Child("port"))...)
		}
	}
	if s.Labels[discovery.LabelServiceName] == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "labels").Key(discovery.LabelServiceName),
			"names the Service of the slice"))
	}
	return errs
}
