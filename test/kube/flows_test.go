// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

const (
	fromLaptop  = "laptop"
	fromPod     = "pod"
	fromSandbox = "sandboxed pod"
	fromPod2    = "pod on node-2"
	fromNode1   = "node-1"
	fromNode2   = "node-2"
	fromHere    = "endpoint here"
)

// source is where a flow comes from.
type source struct {
	name   string
	host   *topo.Host
	client *topo.Client
}

// sources are all kinds of them. The pod on the first node is there twice: a
// proxy may not see the sockets of one (they are those of a sandbox), and must
// treat them alike. here reaches itself through services.
func (s *setup) sources(t *testing.T, pods map[string]*topo.Pod) []source {
	t.Helper()
	addClient := func(node int, name string, opts topo.PodOptions) *topo.Host {
		pod, err := s.Nodes[node].AddPod(name, opts)
		check(t, err)
		return pod.Host
	}
	all := []source{
		{name: fromLaptop, host: s.Laptop},
		{name: fromPod, host: addClient(0, "near", topo.PodOptions{})},
		{name: fromSandbox, host: addClient(0, "sandboxed", topo.PodOptions{OutsideCgroup: true})},
		{name: fromPod2, host: addClient(1, "far", topo.PodOptions{})},
		{name: fromNode1, host: s.Nodes[0].Host},
		{name: fromNode2, host: s.Nodes[1].Host},
		{name: fromHere, host: pods[here].Host},
	}
	for i := range all {
		all[i].client = client(t, all[i].host)
	}
	return all
}

// frontend is a kind of address that a flow is sent to.
type frontend struct {
	name string
	rows []int // of the contract that it is about
	addr func(s *setup, svc service, v6 bool) netip.Addr
	port func(svc service) uint16
	// only restricts it to some flows; nil is all.
	only func(svc service, src source) bool
}

func portOfService(service) uint16 { return servicePort }

func portUnused(service) uint16 { return unusedPort }

func nodeAddr(node int) func(*setup, service, bool) netip.Addr {
	return func(s *setup, _ service, v6 bool) netip.Addr {
		if v6 {
			return s.Nodes[node].IP6
		}
		return s.Nodes[node].IP4
	}
}

func loopback(_ *setup, _ service, v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.MustParseAddr("127.0.0.1")
}

// unallocated is an address of the services' range that no service has.
func unallocated(_ *setup, _ service, v6 bool) netip.Addr {
	return familyAddr(v6, "10.96.200.%d", "fd00:10:96::%x", 200)
}

func firstService(svc service, _ source) bool { return svc.number == 1 }

func onlyNode1(svc service, src source) bool { return svc.number == 1 && src.name == fromNode1 }

const (
	viaClusterIP   = "ClusterIP"
	viaNodePort1   = "NodePort node-1"
	viaNodePort2   = "NodePort node-2"
	viaExternalIP  = "externalIP"
	viaLB          = "LB IP"
	viaUnusedPort  = "ClusterIP, unused port"
	viaUnallocated = "unallocated ClusterIP"
	viaLoopback    = "NodePort loopback"
)

var frontends = []frontend{
	{viaClusterIP, []int{8, 9}, func(_ *setup, svc service, v6 bool) netip.Addr { return svc.clusterIP(v6) }, portOfService, nil},
	{viaNodePort1, []int{11, 12}, nodeAddr(0), service.nodePort, nil},
	{viaNodePort2, []int{11, 12}, nodeAddr(1), service.nodePort, nil},
	{viaExternalIP, []int{12, 16}, func(_ *setup, svc service, v6 bool) netip.Addr { return svc.externalIP(v6) }, portOfService, nil},
	{viaLB, []int{12, 17}, func(_ *setup, svc service, v6 bool) netip.Addr { return svc.lbIP(v6) }, portOfService, nil},
	{viaUnusedPort, []int{21}, func(_ *setup, svc service, v6 bool) netip.Addr { return svc.clusterIP(v6) }, portUnused, firstService},
	{viaUnallocated, []int{22}, unallocated, portOfService, firstService},
	{viaLoopback, []int{11}, loopback, service.nodePort, onlyNode1},
}

// flow is a row of the table.
type flow struct {
	service  service
	frontend frontend
	source   source
	udp, v6  bool
}

func (f flow) kind() string {
	proto, family := "TCP", "IPv4"
	if f.udp {
		proto = "UDP"
	}
	if f.v6 {
		family = "IPv6"
	}
	return proto + " " + family
}

func (f flow) String() string {
	return fmt.Sprintf("%s to %s of %s by %s", f.source.name, f.frontend.name, f.service.name, f.kind())
}

// rows are those of the contract that a flow is about: what is special about its
// service, or, for services without anything special, the kind of frontend.
func (f flow) rows() []int {
	switch {
	case f.service.number != 1:
		return f.service.rows
	case f.frontend.name == viaUnusedPort, f.frontend.name == viaUnallocated:
		return f.frontend.rows
	}
	rows := slices.Concat(f.service.rows, f.frontend.rows)
	if f.isExternal() {
		rows = append(rows, 13)
	}
	if f.source.name == fromHere {
		rows = append(rows, 10)
	}
	return rows
}

func (f flow) to(s *setup) netip.AddrPort {
	return netip.AddrPortFrom(f.frontend.addr(s, f.service, f.v6), f.frontend.port(f.service))
}

// flowsOf groups the flows of the table: those of one group are asked one after
// the other, so that none disturbs the session affinity of another.
func flowsOf(services []service, sources []source) (groups [][]flow) {
	for _, svc := range services {
		for _, src := range sources {
			for _, v6 := range bothFamilies {
				for _, udp := range []bool{false, true} {
					var group []flow
					for _, f := range frontends {
						if f.only == nil || f.only(svc, src) {
							group = append(group, flow{svc, f, src, udp, v6})
						}
					}
					groups = append(groups, group)
				}
			}
		}
	}
	return groups
}
