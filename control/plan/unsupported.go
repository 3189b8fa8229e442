// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"
)

// closedAddresses are the addresses that are not served, because who may reach them is
// restricted and the datapath could not tell.
func closedAddresses(port proxy.ServicePort) []net.IP {
	if len(port.LoadBalancerSourceRanges()) == 0 {
		return nil
	}
	return port.LoadBalancerVIPs()
}

func containsIP(all []net.IP, ip net.IP) bool {
	return slices.ContainsFunc(all, ip.Equal)
}

// unsupported says what of a service port the datapath does not do, as sentences for people: a
// wish must not be ignored in silence.
func unsupported(name string, port proxy.ServicePort) []string {
	var out []string
	if len(closedAddresses(port)) > 0 {
		out = append(out, "service "+name+": spec.loadBalancerSourceRanges can't be enforced, so its load balancer addresses are not served at all")
	}
	if port.SessionAffinityType() == v1.ServiceAffinityClientIP {
		out = append(out, "service "+name+": spec.sessionAffinity ClientIP is not supported, each connection chooses anew")
	}
	return out
}
