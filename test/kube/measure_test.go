// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// outcome is what came of a flow's connections.
type outcome struct {
	// reached says, for each endpoint that answered, whose address it saw.
	reached map[string]map[string]bool
	// ended are the other ends that connections came to.
	ended map[string]bool
}

const (
	refused = "refused"
	dropped = "dropped"
	kept    = "client" // the endpoint saw the client's own address
)

func (o outcome) String() string {
	var parts []string
	for endpoint, seen := range o.reached {
		parts = append(parts, endpoint+" sees "+keys(seen))
	}
	slices.Sort(parts)
	if len(o.ended) > 0 {
		parts = append(parts, keys(o.ended))
	}
	return strings.Join(parts, ", ")
}

func keys(set map[string]bool) string {
	var all []string
	for k := range set {
		all = append(all, k)
	}
	slices.Sort(all)
	return strings.Join(all, "+")
}

const (
	tries       = 22 // of two endpoints one is missed once in two million flows; a run has thousands
	parallel    = 64 // groups of flows at a time: most of them wait for what is dropped
	patience    = 700 * time.Millisecond
	morePatient = 3 * time.Second // before silence counts
)

// measureAll asks all flows of the table.
func (s *setup) measureAll(groups [][]flow) map[string]outcome {
	var mu sync.Mutex
	all := map[string]outcome{}
	work := make(chan []flow)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for group := range work {
				for _, f := range group {
					o := s.measure(f)
					mu.Lock()
					all[f.String()] = o
					mu.Unlock()
				}
			}
		})
	}
	for _, group := range groups {
		work <- group
	}
	close(work)
	workers.Wait()
	return all
}

// measure connects until all endpoints of the service have answered, or often.
func (s *setup) measure(f flow) outcome {
	o := outcome{reached: map[string]map[string]bool{}, ended: map[string]bool{}}
	for try := range tries {
		reply := f.ask(s, patience)
		end := endOf(reply)
		if end == dropped { // or late
			reply = f.ask(s, morePatient)
			end = endOf(reply)
		}
		if end == "" {
			if o.reached[reply.Pod] == nil {
				o.reached[reply.Pod] = map[string]bool{}
			}
			o.reached[reply.Pod][s.seen(f, reply.Remote.Addr())] = true
		} else {
			o.ended[end] = true
		}
		// Silence is expensive, and nothing is random about not getting anywhere.
		nowhere := len(o.reached) == 0 && (o.ended[dropped] || try >= 3)
		if nowhere || len(o.reached) == len(f.service.pods) {
			break
		}
	}
	return o
}

func (f flow) ask(s *setup, timeout time.Duration) topo.Reply {
	r := topo.Request{To: f.to(s), Timeout: timeout, Size: 64, Reset: true}
	if !f.udp {
		return f.source.client.Get(r)
	}
	reply := f.source.client.UDPConnected(r)
	if reply.Errno != "EPERM" {
		return reply
	}
	// Netfilter rejected or dropped it on the node itself: a rejection's ICMP error
	// comes behind the EPERM, to the socket.
	stream, opened := f.source.client.OpenUDP(r)
	defer stream.Close()
	if !opened.OK() {
		return opened
	}
	_ = stream.Exchange(r.Size)
	return stream.Exchange(r.Size)
}

// endOf is "" for an answer. A drop in the client's own network stack is distinguished to it as
// EPERM, and one by a socket hook as the end that silence has.
func endOf(r topo.Reply) string {
	switch {
	case r.OK():
		return ""
	case r.Errno == "ECONNREFUSED":
		return refused
	case r.Timeout || r.Errno == "EPERM" || r.Errno == "ETIMEDOUT":
		return dropped
	case r.Errno != "":
		return r.Errno
	}
	return r.Err
}

// seen names the owner of the address that an endpoint saw.
func (s *setup) seen(f flow, addr netip.Addr) string {
	host := f.source.host
	if addr == host.IP4 || addr == host.IP6 {
		return kept
	}
	for _, node := range s.Nodes {
		if addr == node.IP4 || addr == node.IP6 || isGateway(node, addr) {
			if node.Host == host {
				return kept
			}
			return node.Name
		}
	}
	return fmt.Sprint(addr)
}

// isGateway reports whether an address is the node's own among its pods.
func isGateway(node *topo.Node, addr netip.Addr) bool {
	return addr == node.PodCIDR4.Addr().Next() || addr == node.PodCIDR6.Addr().Next()
}
