// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"github.com/waggle-lb/waggle/maps"
)

// serviceHealth answers on the health check node ports of services (KEP-27: those of type
// LoadBalancer whose external traffic policy is Local) how many endpoints they have on this node.
type serviceHealth struct {
	nodeName  string
	nodePorts NodePortAddresses
	health    *Health
	recorder  events.EventRecorder

	mu      sync.Mutex
	known   bool // which addresses the node has
	nodeIPs []netip.Addr
	servers map[maps.Family]serviceHealthServer
}

// serviceHealthServer serves the services of one family.
type serviceHealthServer struct {
	healthcheck.ServiceHealthServer
	failed *failedListeners
}

// newServiceHealth makes a serviceHealth that listens once setNodeIPs has been called. The
// recorder, nil for none, gets an event for each service whose port can't be had.
func newServiceHealth(nodeName string, nodePorts NodePortAddresses, health *Health, recorder events.EventRecorder) *serviceHealth {
	return &serviceHealth{
		nodeName: nodeName, nodePorts: nodePorts, health: health, recorder: recorder,
		servers: map[maps.Family]serviceHealthServer{},
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
		_ = server.SyncServices(nil) // it tells of no error
	}
	clear(s.servers)
	s.known, s.nodeIPs = true, slices.Clone(ips)
	for family, ipFamily := range ipFamilies {
		cidrs, any := s.nodePorts.cidrs(family, ips)
		if any {
			addresses := proxyutil.NewNodePortAddresses(ipFamily, cidrs)
			failed := &failedListeners{recorder: s.recorder}
			s.servers[family] = serviceHealthServer{
				healthcheck.NewServiceHealthServer(s.nodeName, failed, addresses, s.health, ipFamily), failed,
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
	server.failed.begin()
	if err := server.SyncServices(ports); err != nil {
		return err
	}
	if err := server.SyncEndpoints(endpoints); err != nil {
		return err
	}
	return server.failed.err()
}

// cidrs lists the addresses of one family that NodePorts answer on, for the library, to which an
// empty list means all. any is false if there are none.
func (n NodePortAddresses) cidrs(family maps.Family, primary []netip.Addr) (list []string, any bool) {
	if n.all || len(n.prefixes) == 0 && len(primary) == 0 {
		return nil, true
	}
	prefixes := n.prefixes
	if len(prefixes) == 0 {
		for _, a := range primary {
			prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range prefixes {
		if maps.FamilyOf(p.Addr()) == family {
			list = append(list, p.String())
		}
	}
	return list, len(list) > 0
}

// failedListeners collects the failures to listen, of which the library tells by events only, and
// passes on those that are new.
type failedListeners struct {
	recorder      events.EventRecorder
	before, since map[string]bool // messages
	errs          []error
}

// begin forgets the failures, to find out which there still are.
func (f *failedListeners) begin() {
	f.before, f.since, f.errs = f.since, map[string]bool{}, nil
}

func (f *failedListeners) err() error { return errors.Join(f.errs...) }

// Eventf is part of events.EventRecorder.
func (f *failedListeners) Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any) {
	message := fmt.Sprintf(note, args...)
	f.errs = append(f.errs, errors.New(message))
	f.since[message] = true
	if f.recorder != nil && !f.before[message] {
		f.recorder.Eventf(regarding, related, eventtype, reason, action, note, args...)
	}
}

var _ events.EventRecorder = (*failedListeners)(nil)
