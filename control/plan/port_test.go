// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/maps"
)

// A load balancer is recognised even if no frontend shows it.
func TestLoadBalancerType(t *testing.T) {
	for name, test := range map[string]struct {
		svc  *v1.Service
		want maps.Type
	}{
		"cluster IP":        {newService(), maps.PlainType},
		"node port":         {newService(nodePort), maps.PlainType},
		"no address yet":    {newService(loadBalancer()), maps.PendingLoadBalancer},
		"an address":        {newService(loadBalancer(v1.LoadBalancerIngress{IP: "192.0.2.1"})), maps.LoadBalancerType},
		"a name":            {newService(loadBalancer(v1.LoadBalancerIngress{Hostname: "lb.example.com"})), maps.LoadBalancerType},
		"of another family": {newService(loadBalancer(v1.LoadBalancerIngress{IP: "2001:db8::1"})), maps.LoadBalancerType},
	} {
		planned := planAll(maps.IPv4, test.svc, nil)
		if len(planned) != 1 || planned[0].Type != test.want {
			t.Errorf("%s: %+v, want type %d", name, planned, test.want)
		}
	}
}
