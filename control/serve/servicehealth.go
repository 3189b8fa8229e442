// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// NodePortAddresses are the node's addresses on which NodePorts answer.
type NodePortAddresses interface {
	// CIDRs lists those of one family, of which primary are the node's own; an empty list means all. any
	// is false if there are none.
	CIDRs(family maps.Family, primary []netip.Addr) (list []string, any bool)
}

// ServiceHealth answers on the health check node ports of services (KEP-27: those of type
// LoadBalancer whose external traffic policy is Local) how many endpoints they have on this node.
type ServiceHealth struct {
	nodeName  string
	nodePorts NodePortAddresses
	health    *Health
	recorder  events.EventRecorder

	mu      sync.Mutex
	known   bool // which addresses the node has
	nodeIPs []netip.Addr
	servers map[maps.Family]*healthPorts
}

// NewServiceHealth makes a ServiceHealth that listens once SetNodeIPs has been called. The
// recorder, nil for none, gets an event for each service whose port is not available.
func NewServiceHealth(nodeName string, nodePorts NodePortAddresses, health *Health, recorder events.EventRecorder) *ServiceHealth {
	return &ServiceHealth{
		nodeName: nodeName, nodePorts: nodePorts, health: health, recorder: recorder,
		servers: map[maps.Family]*healthPorts{},
	}
}

// SetNodeIPs sets the node's addresses; an empty list: it has none. Servers on other addresses end.
func (s *ServiceHealth) SetNodeIPs(ips []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known && slices.Equal(s.nodeIPs, ips) {
		return
	}
	for _, server := range s.servers {
		server.close()
	}
	clear(s.servers)
	s.known, s.nodeIPs = true, slices.Clone(ips)
	for family, ipFamily := range plan.IPFamilies {
		cidrs, any := s.nodePorts.CIDRs(family, ips)
		if any {
			s.servers[family] = &healthPorts{
				nodeName: s.nodeName, healthy: func() bool { return s.health.Health().Healthy }, recorder: s.recorder,
				network: healthNetworks[family], addresses: proxyutil.NewNodePortAddresses(ipFamily, cidrs),
				open: map[types.NamespacedName]*healthPort{}, failed: map[string]bool{},
			}
		}
	}
}

// Sync listens on the ports of one family's services, and on no others, and answers with the numbers of their
// local endpoints that are ready. It tries ports again that other programs held. The error names the ports
// that it can't listen on.
func (s *ServiceHealth) Sync(family maps.Family, ports map[types.NamespacedName]uint16, endpoints map[types.NamespacedName]int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	server, ok := s.servers[family]
	if !ok {
		return nil
	}
	return server.sync(ports, endpoints)
}
