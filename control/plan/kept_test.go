// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/maps"
)

// TestRow28Kept: a UDP service's flows stay with every endpoint that serves, even if the endpoint
// is in none of the sets for new flows.
func TestRow28Kept(t *testing.T) {
	svc := newService(nodePort, externalLocal, func(svc *v1.Service) { svc.Spec.Ports[0].Protocol = v1.ProtocolUDP })
	slice := ipv4(endpoint("10.1.0.1"), endpoint("10.1.0.2", terminating), endpoint("10.1.0.3", unready),
		endpoint("10.1.0.4", dying), endpoint("10.1.0.5", terminating, local))
	slice.Ports = []discovery.EndpointPort{slicePort("http", v1.ProtocolUDP, 8080)}
	got := planAll(maps.IPv4, svc, sliceList{slice})[0]
	if kept, want := list(got.Kept), "10.1.0.1:8080 10.1.0.2:8080 10.1.0.5:8080*"; kept != want {
		t.Errorf("kept: %s, want %s", kept, want)
	}
	if cluster, want := list(got.Endpoints[0]), "10.1.0.1:8080"; cluster != want {
		t.Errorf("cluster: %s, want %s", cluster, want)
	}
	svc.Spec.Ports[0].Protocol, slice.Ports[0] = v1.ProtocolTCP, slicePort("http", v1.ProtocolTCP, 8080)
	if got := planAll(maps.IPv4, svc, sliceList{slice})[0]; got.Kept != nil {
		t.Errorf("TCP: kept %s, want none: established connections need no backend", list(got.Kept))
	}
}
