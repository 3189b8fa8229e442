// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync"

	"github.com/waggle-lb/waggle/test/topo"
)

// path is a way on which a client reaches a backend.
type path struct {
	name   string
	client string // the host that asks
	// backends are the services that it leads to.
	backends []string
	// request is what the client does.
	request func(s *setup, svc service, v6 bool) topo.Request
	// server names the host that answers instead of the service's pod.
	server string
}

var both = []string{local, remote}

func nodePort(s *setup, svc service, v6 bool) topo.Request {
	return topo.Request{To: netip.AddrPortFrom(addrOf(s.Nodes[0].Host, v6), svc.nodePort())}
}

func clusterIP(_ *setup, svc service, v6 bool) topo.Request {
	return topo.Request{To: svc.clusterIP(v6)}
}

func lb(_ *setup, svc service, v6 bool) topo.Request { return topo.Request{To: svc.lb(v6)} }

// paths are those that every environment has.
var paths = []path{
	{name: "NodePort from outside", client: "laptop", backends: both, request: nodePort},
	{name: "NodePort from the other node", client: "node-2", backends: both, request: nodePort},
	{name: "ClusterIP by socket", client: sockets, backends: both, request: clusterIP},
	{name: "ClusterIP from the node", client: "node-1", backends: both, request: clusterIP},
	{name: "ClusterIP by packet", client: packets, backends: both, request: clusterIP},
	{name: "LB address", client: "laptop", backends: both, request: lb},
	{name: "hairpin by packet", client: self, backends: []string{self}, request: clusterIP},
	{name: "own connection from a frontend's port", client: "node-1", backends: both, request: ownConnection, server: "laptop"},
	{name: "hostPort by portmap", client: "laptop", backends: both, request: toHostPort},
}

// toHostPort asks the node that a pod is on: no proxy has to do with it.
func toHostPort(s *setup, svc service, v6 bool) topo.Request {
	return topo.Request{To: netip.AddrPortFrom(addrOf(s.pods[svc.pod].Node.Host, v6), hostPort)}
}

// ownConnection is one of the node's own processes, which talks to a server outside the cluster, with a
// port that a service's clients use as a NodePort.
func ownConnection(s *setup, svc service, v6 bool) topo.Request {
	return topo.Request{Source: addrOf(s.Nodes[0].Host, v6), SourcePort: svc.nodePort(), Reset: true,
		To: netip.AddrPortFrom(addrOf(s.Laptop, v6), 0)}
}

// cell is one field of the matrix.
type cell struct {
	path    path
	backend string
	udp, v6 bool
}

// kind distinguishes the cells of a path.
func (c cell) kind() string {
	protocol, family := "tcp", "4"
	if c.udp {
		protocol = "udp"
	}
	if c.v6 {
		family = "6"
	}
	return fmt.Sprintf("%s%s %s", protocol, family, c.backend)
}

func (c cell) String() string { return c.path.name + ", " + c.kind() }

// cells are all of an environment's.
func (e environment) cells() (out []cell) {
	for _, p := range append(paths[:len(paths):len(paths)], e.more...) {
		for _, backend := range p.backends {
			for _, v6 := range []bool{false, true} {
				out = append(out, cell{p, backend, false, v6}, cell{p, backend, true, v6})
			}
		}
	}
	return out
}

// What each cell sends both ways: more than fits one segment, and more than one datagram.
const (
	streamBytes   = 64 << 10
	datagramBytes = 1200
	datagrams     = 8
)

// try sends a cell's traffic. It returns what went wrong, or "".
func (s *setup) try(c cell) string {
	request := c.path.request(s, services[c.backend], c.v6)
	var reply topo.Reply
	client, want := s.clients[c.path.client], streamBytes
	if c.udp {
		request.Size, request.Count, want = datagramBytes, datagrams, datagrams*datagramBytes
		request.To = netip.AddrPortFrom(request.To.Addr(), cmp.Or(request.To.Port(), serverPorts.UDP[0]))
		reply = client.UDPConnected(request)
	} else {
		request.Size = streamBytes
		request.To = netip.AddrPortFrom(request.To.Addr(), cmp.Or(request.To.Port(), serverPorts.Echo[0]))
		reply = client.Echo(request)
	}
	server := cmp.Or(c.path.server, services[c.backend].pod)
	switch {
	case !reply.OK():
		return reply.Err
	case reply.Pod != server:
		return fmt.Sprintf("%s answered, not %s", reply.Pod, server)
	case reply.Bytes != want:
		return fmt.Sprintf("%d of %d bytes came back", reply.Bytes, want)
	}
	return ""
}

// outcomes are what went wrong, by cell; "" for nothing.
type outcomes map[string]string

// tryAll tries all cells at the same time.
func (s *setup) tryAll() outcomes {
	out := outcomes{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range s.cells() {
		all.Go(func() {
			why := s.try(c)
			mu.Lock()
			defer mu.Unlock()
			out[c.String()] = why
		})
	}
	all.Wait()
	return out
}
