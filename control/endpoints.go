// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/proxy"
)

// endpoint is a proxy.Endpoint in a third of the memory that the library's own takes: a node holds
// all of the cluster's, and looks at few of them again.
type endpoint struct {
	zones, nodes sets.Set[string] // hints
	addr         [16]byte         // IPv4-mapped for IPv4
	port         uint16
	is           endpointFlags
}

type endpointFlags uint8

const (
	endpointLocal endpointFlags = 1 << iota
	endpointReady
	endpointServing
	endpointTerminating
)

var _ proxy.Endpoint = (*endpoint)(nil)

// compact copies the library's endpoints, and leaves out those without a valid address.
func compact(endpoints []proxy.Endpoint) []endpoint {
	out := make([]endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		addr, err := netip.ParseAddr(e.IP())
		if err != nil {
			continue
		}
		c := endpoint{zones: e.ZoneHints(), nodes: e.NodeHints(), addr: addr.As16(), port: uint16(e.Port())}
		for _, f := range [...]struct {
			set  bool
			flag endpointFlags
		}{
			{e.IsLocal(), endpointLocal}, {e.IsReady(), endpointReady},
			{e.IsServing(), endpointServing}, {e.IsTerminating(), endpointTerminating},
		} {
			if f.set {
				c.is |= f.flag
			}
		}
		out = append(out, c)
	}
	return out
}

// forLibrary converts them to the type that the library's functions take.
func forLibrary(endpoints []endpoint) []proxy.Endpoint {
	out := make([]proxy.Endpoint, len(endpoints))
	for i := range endpoints {
		out[i] = &endpoints[i]
	}
	return out
}

// Addr returns the address without a conversion from a string.
func (e *endpoint) Addr() netip.Addr { return netip.AddrFrom16(e.addr).Unmap() }

// The other methods are part of proxy.Endpoint.

func (e *endpoint) String() string              { return netip.AddrPortFrom(e.Addr(), e.port).String() }
func (e *endpoint) IP() string                  { return e.Addr().String() }
func (e *endpoint) Port() int                   { return int(e.port) }
func (e *endpoint) IsLocal() bool               { return e.is&endpointLocal != 0 }
func (e *endpoint) IsReady() bool               { return e.is&endpointReady != 0 }
func (e *endpoint) IsServing() bool             { return e.is&endpointServing != 0 }
func (e *endpoint) IsTerminating() bool         { return e.is&endpointTerminating != 0 }
func (e *endpoint) ZoneHints() sets.Set[string] { return e.zones }
func (e *endpoint) NodeHints() sets.Set[string] { return e.nodes }
