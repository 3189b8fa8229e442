// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	netutils "k8s.io/utils/net"
)

var protocols = sets.New(v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)

// validatePod checks the fields that make endpoints. The API server's validation also requires
// images and the like, which have no use here.
func validatePod(p *v1.Pod) field.ErrorList {
	corev1.SetObjectDefaults_Pod(p)
	errs := validateMeta(p, validation.ValidatePodName)
	if p.Spec.NodeName != "" {
		for _, msg := range validation.ValidateNodeName(p.Spec.NodeName, false) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "nodeName"), p.Spec.NodeName, msg))
		}
	}
	errs = append(errs, validateContainers(p.Spec.InitContainers, field.NewPath("spec", "initContainers"))...)
	errs = append(errs, validateContainers(p.Spec.Containers, field.NewPath("spec", "containers"))...)
	return append(errs, validatePodIPs(&p.Status)...)
}

func validateMeta(object metav1.Object, name validation.ValidateNameFunc) field.ErrorList {
	namespaced := object.GetNamespace() != ""
	return validation.ValidateObjectMeta(objectMeta(object), namespaced, name, field.NewPath("metadata"))
}

// objectMeta copies the fields that ValidateObjectMeta checks.
func objectMeta(object metav1.Object) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{
		Name: object.GetName(), Namespace: object.GetNamespace(),
		Labels: object.GetLabels(), Annotations: object.GetAnnotations(),
	}
}

func validateContainers(containers []v1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range containers {
		names := sets.New[string]()
		for j, port := range c.Ports {
			at := path.Index(i).Child("ports").Index(j)
			errs = append(errs, validateContainerPort(port, at)...)
			if port.Name != "" && names.Has(port.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
	}
	return errs
}

func validateContainerPort(port v1.ContainerPort, path *field.Path) field.ErrorList {
	errs := validatePort(int(port.ContainerPort), path.Child("containerPort"))
	if !protocols.Has(port.Protocol) {
		errs = append(errs, field.NotSupported(path.Child("protocol"), port.Protocol, sets.List(protocols)))
	}
	if port.Name == "" {
		return errs
	}
	for _, msg := range utilvalidation.IsValidPortName(port.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), port.Name, msg))
	}
	return errs
}

func validatePort(port int, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsValidPortNum(port) {
		errs = append(errs, field.Invalid(path, port, msg))
	}
	return errs
}

// validatePodIPs fills in podIP or podIPs if only the other is given, and allows one address of each family.
func validatePodIPs(s *v1.PodStatus) field.ErrorList {
	path := field.NewPath("status", "podIPs")
	switch {
	case s.PodIP != "" && len(s.PodIPs) == 0:
		s.PodIPs = []v1.PodIP{{IP: s.PodIP}}
		return validatePodIP(s.PodIP, field.NewPath("status", "podIP"))
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && s.PodIPs[0].IP != s.PodIP:
		return field.ErrorList{field.Invalid(path.Index(0).Child("ip"), s.PodIPs[0].IP, "must be equal to `podIP`")}
	}
	var errs field.ErrorList
	families := sets.New[bool]()
	for i, ip := range s.PodIPs {
		at := path.Index(i).Child("ip")
		errs = append(errs, validatePodIP(ip.IP, at)...)
		if v6 := netutils.IsIPv6String(ip.IP); families.Has(v6) {
			errs = append(errs, field.Invalid(at, ip.IP, "may specify no more than one IP for each IP family"))
		} else {
			families.Insert(v6)
		}
	}
	return errs
}

func validatePodIP(ip string, path *field.Path) field.ErrorList {
	if errs := validation.IsValidIPForLegacyField(path, ip, nil); len(errs) > 0 {
		return errs
	}
	return validation.ValidateEndpointIP(ip, path)
}

// validateNode also checks the addresses, which the API server does not, because a wrong one would
// become a NodePort frontend.
func validateNode(n *v1.Node) field.ErrorList {
	corev1.SetObjectDefaults_Node(n)
	var internal core.Node
	if err := corev1.Convert_v1_Node_To_core_Node(n.DeepCopy(), &internal, nil); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := validation.ValidateNode(&internal)
	for i, a := range n.Status.Addresses {
		if a.Type == v1.NodeInternalIP || a.Type == v1.NodeExternalIP {
			path := field.NewPath("status", "addresses").Index(i).Child("address")
			errs = append(errs, validation.IsValidIPForLegacyField(path, a.Address, nil)...)
		}
	}
	return errs
}
