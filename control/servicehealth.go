// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/maps"
)

// serviceHealth answers on the health check node ports of services (KEP-27: those of type
// LoadBalancer whose external traffic policy is Local) how many endpoints they have on this node.
type serviceHealth struct {
	nodeName  string
	nodePorts node.NodePortAddresses
	health    *Health
	recorder  events.EventRecorder

	mu      sync.Mutex
	known   bool // which addresses the node has
	nodeIPs []netip.Addr
	servers map[maps.Family]*healthPorts
}

// newServiceHealth makes a serviceHealth that listens once setNodeIPs has been called. The
// recorder, nil for none, gets an event for each service whose port can't be had.
func newServiceHealth(nodeName string, nodePorts node.NodePortAddresses, health *Health, recorder events.EventRecorder) *serviceHealth {
	return &serviceHealth{
		nodeName: nodeName, nodePorts: nodePorts, health: health, recorder: recorder,
		servers: map[maps.Family]*healthPorts{},
	}
}

// setNodeIPs tells the node's addresses, or that it has none of its own. Servers on others end.
func (s *serviceHealth) setNodeIPs(ips []netip.Addr) {
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
	for family, ipFamily := range ipFamilies {
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

// sync listens on the ports of one family's services, and on no others, and answers with the
// numbers of their local endpoints that are ready. Ports that were somebody else's are tried again.
func (s *serviceHealth) sync(family maps.Family, ports map[types.NamespacedName]uint16, endpoints map[types.NamespacedName]int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	server, ok := s.servers[family]
	if !ok {
		return nil
	}
	return server.sync(ports, endpoints)
}
