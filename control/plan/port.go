// SPDX-License-Identifier: Apache-2.0

package plan

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/waggle-lb/waggle/maps"
)

// IPFamilies are Kubernetes' names of the families.
var IPFamilies = map[maps.Family]v1.IPFamily{
	maps.IPv4: v1.IPv4Protocol,
	maps.IPv6: v1.IPv6Protocol,
}

// loadBalancerPort is a port of a Service of type LoadBalancer. The frontends of such a Service
// without an address don't show its type.
type loadBalancerPort struct {
	*proxy.BaseServicePortInfo
	pending bool
}

// NewPort makes the entry of a service port in the library's trackers.
func NewPort(_ *v1.ServicePort, service *v1.Service, base *proxy.BaseServicePortInfo) proxy.ServicePort {
	if service.Spec.Type != v1.ServiceTypeLoadBalancer {
		return base
	}
	return loadBalancerPort{base, len(service.Status.LoadBalancer.Ingress) == 0}
}

// Type is used by Plan.
func (p loadBalancerPort) Type() maps.Type {
	if p.pending {
		return maps.PendingLoadBalancer
	}
	return maps.LoadBalancerType
}
