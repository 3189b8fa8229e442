// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// verdictWords says why a packet's verdict is what it is, and what can be done about it.
func (t *report) verdictWords(trace *loader.Trace) (reason, advice string, err error) {
	if trace.Notes.Steps&bpf.TraceWhoHas != 0 && trace.Verdict != bpf.VerdictAnnounced {
		return t.notAnnounced(trace)
	}
	switch trace.Verdict {
	case bpf.VerdictNotOurs:
		return t.notOurs(trace)
	case bpf.VerdictRefused:
		return t.refused(trace)
	case bpf.VerdictLeftToTC:
		return t.leftToTC(trace), "", nil
	case bpf.VerdictStack, bpf.VerdictSource:
		return t.routed(trace), "", nil
	case bpf.VerdictDropNoFlow:
		reason, advice = t.noFlow(trace)
		return reason, advice, nil
	case bpf.VerdictDropNoRoute:
		return t.noRoute(trace)
	case bpf.VerdictICMPError:
		return t.icmpError(trace), "", nil
	}
	w, ok := plainWords[trace.Verdict]
	if !ok {
		return "the program says no more", "", nil
	}
	return w.reason, w.advice, nil
}

type words struct{ reason, advice string }

// plainWords are of verdicts that have one reason each.
var plainWords = map[bpf.Verdict]words{
	bpf.VerdictNotIP:     {"only IP packets, and ARP requests for announced addresses, are looked into", ""},
	bpf.VerdictVlan:      {"a tagged frame is the VLAN device's", ""},
	bpf.VerdictUnparsed:  {"its headers are cut short, malformed or of a kind that waggle does not read: the stack gets it as it is", "A cluster IP is served by no program then. See docs/design.md, \"What happens to what we don't handle\"."},
	bpf.VerdictFragment:  {"a fragment of which no ports are known: the stack gets it as it is", "A later fragment is translated only after its first one, within 30 s, by the same hook. XDP leaves all fragments to tc."},
	bpf.VerdictExpress:   {"both addresses are rewritten, and the program sends the packet itself", ""},
	bpf.VerdictTooBig:    {"the packet is larger than the next hop's MTU: its sender gets \"fragmentation needed\" or \"packet too big\"", "The sender is to make smaller packets. If it does not, something drops ICMP on the way back, or its MTU is wrong: see the MTU of the device in the next hop."},
	bpf.VerdictAnswered:  {"a ping of a cluster IP, which the agent's --answer-ping has answered", ""},
	bpf.VerdictAnnounced: {"this node announces the address here: the sender gets the MAC", ""},
	bpf.VerdictDropNoLocalEndpoint: {"the service has endpoints, and its traffic policy allows none of them here",
		"The policy is Local, and no ready endpoint runs on this node. Send to a node that has one (the health check node port of the service says so to load balancers), run an endpoint here, or set the policy to Cluster."},
	bpf.VerdictDropSNATExhausted: {"no free source port was found towards this endpoint",
		"Other flows of this node have the ports of --snat-ports to the same endpoint. Widen --snat-ports, or spread the load over more endpoints. `waggle flow list --address ENDPOINT` shows them."},
	bpf.VerdictDropFlowsFull: {"the flow table is full: all that is in reach is confirmed and alive",
		"`waggle status` shows how full the table is. Enlarge it with --map-size=flows4=N (or flows6); that takes a `waggle cleanup` before the start."},
	bpf.VerdictDropTTL: {"its TTL ends on this node", "The sender's TTL is too small, or the packet goes round in a loop of routes."},
	bpf.VerdictDropSourceRange: {"the client's address is in none of the service's loadBalancerSourceRanges",
		"Add the client to spec.loadBalancerSourceRanges, or look for a proxy before this node that changes the client's address."},
	bpf.VerdictDropUnallocated: {"the address is in a service CIDR, and no service has it: a route would lead it out of the cluster and back",
		"The client uses the address of a service that is gone, or of another cluster. Look it up anew."},
	bpf.VerdictDropError: {"the packet can't be made into what it should become", "Report it, with the packet: explain --pcap FILE."},
}

func (t *report) notOurs(trace *loader.Trace) (reason, advice string, err error) {
	steps, tuple := trace.Notes.Steps, tupleOf(trace)
	switch {
	case trace.Packet.Family == 0:
		return "waggle leaves the frame as it is", "", nil
	case steps&bpf.TraceSocket != 0:
		return "it belongs to a connection of a process on this node, which is not translated", "", nil
	case steps&bpf.TraceFrontend != 0 && trace.Record.Backend != 0:
		return "it comes in from outside with a source that is a pod of this node: the stack decides (rp_filter)", "", nil
	case steps&bpf.TraceFrontend != 0:
		return "it comes in from outside with a source that is an address of this node: the stack decides (rp_filter)", "To ask about a process of this node, use --socket.", nil
	case trace.Record.Flags&bpf.FlowForeign != 0 && trace.Record.Tag != 0:
		return "another translator (netfilter's NAT, or kube-proxy before waggle) has this connection", "", nil
	case trace.Notes.ClusterOwner == uint32(bpf.ClusterAddrOthers):
		return "the service belongs to another service proxy (label service.kubernetes.io/service-proxy-name)", "", nil
	case steps&bpf.TraceICMP != 0:
		return "it is about no flow of waggle's", "", nil
	}
	reason = "it is for no service, and of no flow: the stack gets it as it is"
	if steps&bpf.TraceService == 0 {
		return reason, "", nil
	}
	advice, err = t.nearMisses(tuple)
	return reason, advice, err
}

// nearMisses are frontends that an address has at other ports.
func (e *Explainer) nearMisses(tuple maps.Tuple) (string, error) {
	all, err := maps.NewServices(e.view).All()
	if err != nil {
		return "", err
	}
	var near []string
	for f := range all {
		if f.Addr == tuple.Dst.Addr() || f.Addr.IsUnspecified() && f.Addr.Is4() == tuple.Dst.Addr().Is4() && f.Port == tuple.Dst.Port() {
			near = append(near, f.String())
		}
	}
	slices.Sort(near)
	const most = 8
	more := ""
	if len(near) > most {
		near, more = near[:most], " and others"
	}
	if len(near) > 0 {
		return fmt.Sprintf("Frontends like it: %s%s. Is port, protocol or address another?", strings.Join(near, ", "), more), nil
	}
	if port := tuple.Dst.Port(); port >= e.nodePortMin && port <= e.nodePortMax {
		return fmt.Sprintf("No service has the node port %d: `waggle service list` shows those that there are.", port), nil
	}
	return "", nil
}

func (t *report) refused(trace *loader.Trace) (reason, advice string, err error) {
	if !understood(trace) {
		return "no host has the cluster IP: the sender gets \"destination unreachable\"",
			"Services answer to TCP, UDP and SCTP only. With the agent's --answer-ping cluster IPs answer pings, too.", nil
	}
	if trace.Notes.Steps&bpf.TraceFrontend == 0 {
		advice, err := t.nearMisses(tupleOf(trace))
		return "the address is a service's, and the service has no such port: the sender is refused", advice, err
	}
	name, err := maps.ReadName(t.view, trace.Notes.Service.Id)
	return "the service has no ready endpoint: the sender is refused", endpointsAdvice(name), err
}

func endpointsAdvice(name maps.Name) string {
	return fmt.Sprintf("See which endpoints there are: kubectl -n %s get endpointslices -l kubernetes.io/service-name=%s. "+
		"If none: does the Service's selector match the pods' labels? If some that are not ready: why do the pods fail their readiness probes? "+
		"If they are ready: has the Service's targetPort a name that the pods' containers don't have?", name.Namespace, name.Name)
}

func (t *report) leftToTC(trace *loader.Trace) string {
	r := trace.Record
	switch {
	case r.Tag == 0:
		return "it is to be refused, which tc does"
	case r.Flags&bpf.FlowExpress == 0:
		return "the kernel is to route it, so tc rewrites it"
	case trace.Hop.Flags&bpf.HopResolved == 0:
		return "the next hop is not resolved yet, which tc's way of sending does"
	case trace.Hop.Flags&bpf.HopXDP == 0:
		return fmt.Sprintf("XDP can't transmit on %s", deviceName(int(trace.Hop.Ifindex)))
	case trace.Hop.Mtu != 0 && trace.Packet.Len > uint32(trace.Hop.Mtu):
		return fmt.Sprintf("it is larger than the next hop's MTU of %d, which tc tells the sender", trace.Hop.Mtu)
	}
	return "one packet in five seconds goes by tc, so that the kernel asks whether the neighbour is still there"
}

// routed: the kernel sends the packet on.
func (t *report) routed(trace *loader.Trace) string {
	switch {
	case trace.Record.Service == 0 && bpf.Zone(trace.Packet.Tuple.Zone) == bpf.ZoneLeaving && trace.Record.Flags&bpf.FlowReply == 0:
		return "a connection of this node, from a port that waggle's flows use too: it is recorded, so that its answers are not taken for theirs"
	case trace.Record.Service == 0:
		return "a connection that is no service's, recorded so that it and a service's are not mistaken for each other"
	case trace.Verdict == bpf.VerdictSource:
		return "the source is rewritten as the packet leaves, and the kernel sends it on"
	}
	if trace.Record.Flags&bpf.FlowSplit != 0 {
		to := maps.DecodeTuple(familyOf(trace), trace.Record.To)
		return fmt.Sprintf("the destination is rewritten, the kernel routes it, and %s rewrites the source to %s as it leaves", hookEgress, to.Src.Addr())
	}
	return "the destination is rewritten, and the kernel routes it; the endpoint sees the client's address"
}

const noFlowAdvice = "After a restart of the client or of the node such packets are late ones of connections that are over. If they come again and again, " +
	"the client and this node do not see the same packets: look for another path of the answers."

func (t *report) noFlow(trace *loader.Trace) (reason, advice string) {
	switch {
	case trace.Packet.TcpFlags&tcpFlags["rst"] != 0:
		return "a reset of no known flow", noFlowAdvice
	case !understood(trace):
		return "ICMP to a cluster IP that is no ping: it is not answered", ""
	}
	return fmt.Sprintf("no single host has the source address %s", tupleOf(trace).Src.Addr()), ""
}

func (t *report) noRoute(trace *loader.Trace) (reason, advice string, err error) {
	to := maps.DecodeTuple(familyOf(trace), trace.Record.To)
	if trace.Notes.Steps&bpf.TraceFIB != 0 {
		return fmt.Sprintf("no way leads to the endpoint %s: %s", to.Dst, fibWords(trace)),
			fmt.Sprintf("Routes to pods are the CNI plugin's: compare `ip route get %s` with another node.", to.Dst.Addr()), nil
	}
	return "the node has no address that the source could be translated to",
		"Give the device an address, or the Node object an internal one of this family.", nil
}

func (t *report) icmpError(trace *loader.Trace) string {
	if t.action(trace.Action) == actionSent {
		return "the error and the packet that it quotes are rewritten, and sent to the flow's other side"
	}
	return "the error and the packet that it quotes are rewritten, and the kernel routes it"
}
