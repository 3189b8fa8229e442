// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// podPorts is where one Pod listens for a Service.
type podPorts struct {
	ports   []discovery.EndpointPort
	missing []int // ports of the Service that the Pod doesn't have
}

// resolvePorts finds the ports of a Service in a Pod.
func resolvePorts(service *v1.Service, pod *v1.Pod) podPorts {
	var found podPorts
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, ok := targetPort(p, pod)
		if !ok {
			found.missing = append(found.missing, i)
			continue
		}
		found.ports = append(found.ports, discovery.EndpointPort{
			Name:        ptr.To(p.Name),
			Protocol:    ptr.To(p.Protocol),
			Port:        ptr.To(number),
			AppProtocol: p.AppProtocol,
		})
	}
	return found
}

// targetPort resolves a named port among the containers that run for as long as the Pod does.
func targetPort(p *v1.ServicePort, pod *v1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		return p.TargetPort.IntVal, true
	}
	for _, c := range pod.Spec.Containers {
		if number, ok := containerPort(&c, p); ok {
			return number, true
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != v1.ContainerRestartPolicyAlways {
			continue
		}
		if number, ok := containerPort(&c, p); ok {
			return number, true
		}
	}
	return 0, false
}

func containerPort(c *v1.Container, p *v1.ServicePort) (int32, bool) {
	for _, cp := range c.Ports {
		if cp.Name == p.TargetPort.StrVal && cp.Protocol == p.Protocol {
			return cp.ContainerPort, true
		}
	}
	return 0, false
}

// hasNamedTarget reports whether Pods may resolve to different ports.
func hasNamedTarget(service *v1.Service) bool {
	for _, p := range service.Spec.Ports {
		if p.TargetPort.Type == intstr.String {
			return true
		}
	}
	return false
}

// suffix distinguishes the slices of Pods that resolve to different ports. It is made of the ports
// alone, so that a slice keeps its name while others come and go.
func (p podPorts) suffix(service *v1.Service) string {
	if !hasNamedTarget(service) {
		return ""
	}
	var all strings.Builder
	for _, port := range p.ports {
		fmt.Fprintf(&all, "%s/%s/%d;", *port.Name, *port.Protocol, *port.Port)
	}
	sum := sha256.Sum256([]byte(all.String()))
	return fmt.Sprintf("-%x", sum[:4])
}
