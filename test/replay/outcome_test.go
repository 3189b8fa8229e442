// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gopacket/gopacket/layers"
	v1 "k8s.io/api/core/v1"
)

// podNetworks are where the pods of kube-proxy's tests are.
var podNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00:10::/64")}

// tries is how often a connection is opened for each row: enough to meet each of four endpoints that
// are drawn at random, but for one run in 20 million.
const tries = 64

// outcome is what became of the connections of a row.
type outcome struct {
	fate
	// sources are those that each endpoint sees, where connections are led to endpoints.
	sources map[netip.AddrPort]map[netip.Addr]bool
}

// origin is where a row's client is.
type origin int

const (
	outside origin = iota
	onPod
	onNode
)

// originsOf: what is for the address that it comes from, a load balancer's, is a process's of a node
// that holds the address; or, as kube-proxy's tests trace it, it has left that node and comes in.
func originsOf(c recordedCase, r recordedRow) []origin {
	source := netip.MustParseAddr(r.SourceIP)
	switch {
	case slices.Contains(c.NodeIPs, r.SourceIP), source.IsLoopback():
		return []origin{onNode}
	case r.SourceIP == r.DestIP:
		return []origin{onNode, outside}
	case slices.ContainsFunc(podNetworks, func(p netip.Prefix) bool { return p.Contains(source) }):
		return []origin{onPod}
	}
	return []origin{outside}
}

var protocols = map[string]layers.IPProtocol{
	"":                      layers.IPProtocolTCP,
	string(v1.ProtocolTCP):  layers.IPProtocolTCP,
	string(v1.ProtocolUDP):  layers.IPProtocolUDP,
	string(v1.ProtocolSCTP): layers.IPProtocolSCTP,
}

// replay opens the connections of a row.
func (n *node) replay(c recordedCase, r recordedRow) (outcome, error) {
	t := tuple{
		proto: protocols[r.Protocol], src: netip.AddrPortFrom(netip.MustParseAddr(r.SourceIP), 0),
		dst: netip.AddrPortFrom(netip.MustParseAddr(r.DestIP), uint16(r.DestPort)),
	}
	var all []end
	for _, from := range originsOf(c, r) {
		ends, err := n.openFrom(from, t)
		if err != nil {
			return outcome{}, err
		}
		all = append(all, ends...)
	}
	return collect(all)
}

// openFrom opens connections, each from a client port that no other has.
func (n *node) openFrom(from origin, t tuple) ([]end, error) {
	if from == onNode {
		if t.proto != layers.IPProtocolTCP {
			return nil, fmt.Errorf("a process of the node that uses %s: there was no such row", t.proto)
		}
		return n.connectFromNode(t.dst, tries)
	}
	var ends []end
	for i := range tries {
		n.opened++
		t.src = netip.AddrPortFrom(t.src.Addr(), uint16(20000+n.opened%40000))
		send := n.sendFromPod
		if from == outside {
			send = func(t tuple) (end, error) { return n.sendFromOutside(t, i%2 == 0) }
		}
		e, err := send(t)
		if err != nil {
			return nil, err
		}
		ends = append(ends, e)
	}
	return ends, nil
}

func collect(ends []end) (outcome, error) {
	o := outcome{ends[0].fate, map[netip.AddrPort]map[netip.Addr]bool{}}
	for _, e := range ends {
		if e.fate != o.fate {
			return o, fmt.Errorf("one connection was %s, another one was %s", o.fate, e.fate)
		}
		if e.fate != led {
			continue
		}
		if o.sources[e.endpoint] == nil {
			o.sources[e.endpoint] = map[netip.Addr]bool{}
		}
		o.sources[e.endpoint][e.source] = true
	}
	return o, nil
}

// differences says how the outcome differs from what kube-proxy's test wants; "" if it doesn't.
func (o outcome) differences(c recordedCase, r recordedRow) string {
	wantFate, want := wanted(r)
	got := slices.SortedFunc(maps.Keys(o.sources), netip.AddrPort.Compare)
	switch {
	case o.fate != wantFate && o.fate == led:
		return fmt.Sprintf("led to %v (%s), not %s", got, o.ofSources(c, r), wantFate)
	case o.fate != wantFate:
		return fmt.Sprintf("%s, not %s", o.fate, wantFate)
	case !slices.Equal(got, want):
		return fmt.Sprintf("led to %v, not to %v", got, want)
	}
	return o.ofSources(c, r)
}

// ofSources says what is wrong with the sources that endpoints see; "" if nothing is.
func (o outcome) ofSources(c recordedCase, r recordedRow) string {
	pods, said := podsOf(c), map[bool]map[string]bool{true: {}, false: {}} // by whether the endpoint is on the node
	for endpoint, sources := range o.sources {
		for source := range sources {
			if s := ofSource(c, r, source); s != "" {
				said[pods[endpoint.Addr()]][s] = true
			}
		}
	}
	here := strings.Join(slices.Sorted(maps.Keys(said[true])), ", ")
	elsewhere := strings.Join(slices.Sorted(maps.Keys(said[false])), ", ")
	switch {
	case here == elsewhere:
		return here
	case here == "":
		return elsewhere + " to endpoints elsewhere"
	case elsewhere == "":
		return here + " to endpoints on the node"
	}
	return here + " to endpoints on the node, " + elsewhere + " to endpoints elsewhere"
}

// ofSource: what is translated comes from an address of the node. A process of the node has such an
// address, whether rules would translate it or not.
func ofSource(c recordedCase, r recordedRow, source netip.Addr) string {
	isNodes, isClients := slices.Contains(c.NodeIPs, source.String()), source.String() == r.SourceIP
	switch {
	case r.Masq && isNodes, !r.Masq && isClients:
		return ""
	case isClients:
		return "source kept"
	case isNodes:
		return "source translated"
	}
	return fmt.Sprintf("source became %s", source)
}

// wanted reads a row's output.
func wanted(r recordedRow) (fate, []netip.AddrPort) {
	switch r.Output {
	case "", "ACCEPT": // ACCEPT: no firewall of kube-proxy's stops it
		return leftAlone, nil
	case "DROP":
		return dropped, nil
	case "REJECT":
		return refused, nil
	}
	var endpoints []netip.AddrPort
	for _, text := range strings.Split(r.Output, ", ") {
		endpoints = append(endpoints, netip.MustParseAddrPort(text))
	}
	slices.SortFunc(endpoints, netip.AddrPort.Compare)
	return led, endpoints
}
