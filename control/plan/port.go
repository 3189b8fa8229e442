// SPDX-License-Identifier: Apache-2.0

package plan

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/waggle-lb/waggle/maps"
)

// IPFamilies are the families under Kubernetes' names.
var IPFamilies = map[maps.Family]v1.IPFamily{
	maps.IPv4: v1.IPv4Protocol,
	maps.IPv6: v1.IPv6Protocol,
}

// loadBalancerPort is a port of a Service of type LoadBalancer, which one without an address does
// not tell by its frontends.
type loadBalancerPort struct {
	*proxy.BaseServicePortInfo
	pending bool
}

// NewPort makes what the library's trackers keep of a service port.
func NewPort(_ *v1.ServicePort, service *v1.Service, base *proxy.BaseServicePortInfo) proxy.ServicePort {
	if service.Spec.Type != v1.ServiceTypeLoadBalancer {
		return base
	}
	return loadBalancerPort{base, len(service.Status.LoadBalancer.Ingress) == 0}
}

// Type is what Plan asks for.
func (p loadBalancerPort) Type() maps.Type {
	if p.pending {
		return maps.PendingLoadBalancer
	}
	return maps.LoadBalancerType
}
