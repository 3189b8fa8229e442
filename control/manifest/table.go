// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"maps"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// claim is one thing that only one Service can have: a cluster IP, or a node port of a protocol.
type claim struct {
	addr     netip.Addr
	protocol v1.Protocol
	port     int32
}

func addrClaim(a netip.Addr) claim { return claim{addr: a} }

func portClaim(protocol v1.Protocol, port int32) claim { return claim{protocol: protocol, port: port} }

// entry is all that one Service has, given by its manifest or allocated.
type entry struct {
	ClusterIPs          []netip.Addr `json:"clusterIPs,omitempty"`
	NodePorts           []nodePort   `json:"nodePorts,omitempty"`
	HealthCheckNodePort int32        `json:"healthCheckNodePort,omitempty"`
	// LoadBalancerIPs are addresses of pools. Several Services may share one, so they are no claims.
	LoadBalancerIPs []pooledIP `json:"loadBalancerIPs,omitempty"`
}

// nodePort is kept by the name of the Service's port, as the API server does: a port that
// changes its number keeps its node port.
type nodePort struct {
	Name     string      `json:"name,omitempty"`
	Protocol v1.Protocol `json:"protocol"`
	NodePort int32       `json:"nodePort"`
}

func (e entry) claims() []claim {
	var all []claim
	for _, a := range e.ClusterIPs {
		all = append(all, addrClaim(a))
	}
	for _, p := range e.NodePorts {
		all = append(all, portClaim(p.Protocol, p.NodePort))
	}
	if e.HealthCheckNodePort != 0 {
		all = append(all, portClaim(v1.ProtocolTCP, e.HealthCheckNodePort))
	}
	return all
}

func (e entry) equal(other entry) bool {
	return slices.Equal(e.ClusterIPs, other.ClusterIPs) && slices.Equal(e.NodePorts, other.NodePorts) &&
		e.HealthCheckNodePort == other.HealthCheckNodePort && slices.Equal(e.LoadBalancerIPs, other.LoadBalancerIPs)
}

// table has the entry of every Service, by namespace/name, and the Service of every claim. The two always
// agree.
type table struct {
	entries map[string]entry
	owners  map[claim]string
}

func newTable() *table {
	return &table{entries: map[string]entry{}, owners: map[claim]string{}}
}

// put gives an entry to a Service that has none. It gives nothing if another Service has any part of it.
func (t *table) put(owner string, e entry) bool {
	claims := e.claims()
	for i, c := range claims {
		if _, taken := t.owners[c]; taken || slices.Contains(claims[:i], c) {
			return false
		}
	}
	if len(claims) == 0 {
		return true
	}
	t.entries[owner] = e
	for _, c := range claims {
		t.owners[c] = owner
	}
	return true
}

func (t *table) drop(owner string) {
	for _, c := range t.entries[owner].claims() {
		delete(t.owners, c)
	}
	delete(t.entries, owner)
}

// names lists the Services in order.
func (t *table) names() []string { return slices.Sorted(maps.Keys(t.entries)) }
