// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ranges are what cluster IPs and node ports are taken from.
type ranges struct {
	cidrs []netip.Prefix
	kept  []netip.Addr // that are not chosen
	ports utilnet.PortRange
}

func familyOf(a netip.Addr) v1.IPFamily {
	if a.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// parseAddr reads an address as leniently as the API does.
func parseAddr(s string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(s))
	return a.Unmap(), ok
}

// of lists the ranges of a family.
func (r ranges) of(family v1.IPFamily) []netip.Prefix {
	var found []netip.Prefix
	for _, p := range r.cidrs {
		if familyOf(p.Addr()) == family {
			found = append(found, p)
		}
	}
	return found
}

func (r ranges) has(family v1.IPFamily) bool { return len(r.of(family)) > 0 }

func (r ranges) dualStack() bool { return r.has(v1.IPv4Protocol) && r.has(v1.IPv6Protocol) }

func (r ranges) defaultFamily() v1.IPFamily { return familyOf(r.cidrs[0].Addr()) }

// holds reports whether an address may be a cluster IP.
func (r ranges) holds(a netip.Addr) bool {
	return slices.ContainsFunc(r.cidrs, func(p netip.Prefix) bool {
		return p.Contains(a) && !reserved(p, a)
	})
}

// reserved reports whether an address of a range is never allocated: the network address, which is
// the anycast address of the routers in IPv6, and the broadcast address of IPv4.
func reserved(p netip.Prefix, a netip.Addr) bool {
	if hostBits(p) < 2 {
		return false
	}
	return a == p.Addr() || a.Is4() && !p.Contains(a.Next())
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

func (r ranges) String() string {
	names := make([]string, 0, len(r.cidrs))
	for _, p := range r.cidrs {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}

// validateClusterIPs refuses addresses that the API server would not allocate.
func (r ranges) validateClusterIPs(s *v1.Service) field.ErrorList {
	var errs field.ErrorList
	if !wantsClusterIP(s) {
		return errs
	}
	for i, ip := range s.Spec.ClusterIPs {
		if a, ok := parseAddr(ip); !ok || !r.holds(a) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), ip,
				fmt.Sprintf("the provided IP is not in the valid range. The range of valid IPs is %s", r)))
		}
	}
	return errs
}

func (r ranges) validateNodePorts(s *v1.Service) field.ErrorList {
	var errs field.ErrorList
	check := func(port int32, path *field.Path) {
		if port != 0 && !r.ports.Contains(int(port)) {
			errs = append(errs, field.Invalid(path, port,
				fmt.Sprintf("the provided port is not in the valid range. The range of valid ports is %s", r.ports.String())))
		}
	}
	for i, p := range s.Spec.Ports {
		check(p.NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort"))
	}
	check(s.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
	return errs
}

func wantsClusterIP(s *v1.Service) bool {
	return s.Spec.Type != v1.ServiceTypeExternalName && s.Spec.ClusterIP != v1.ClusterIPNone
}

func needsHealthCheckPort(s *v1.Service) bool {
	return s.Spec.Type == v1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
}

// needsNodePorts reports whether ports without a node port get one.
func needsNodePorts(s *v1.Service) bool {
	switch s.Spec.Type {
	case v1.ServiceTypeNodePort:
		return true
	case v1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}
