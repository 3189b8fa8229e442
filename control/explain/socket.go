// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// Socket explains what the socket hooks do when a process connects, or sends.
func (e *Explainer) Socket(s Socket) (*Answer, error) {
	if s.Proto != "tcp" && s.Proto != "udp" {
		return nil, fmt.Errorf("--proto %s: the hooks of sockets see tcp and udp only", s.Proto)
	}
	if s.To.Port() == 0 {
		return nil, fmt.Errorf("--to %s: want an address and a port", s.To)
	}
	if s.From.IsValid() && s.From.Is4() != s.To.Addr().Is4() {
		return nil, fmt.Errorf("--from %s: --to %s is of the other address family", s.From, s.To)
	}
	if s.Netns == 0 {
		s.Netns = e.host
	}
	t := socketReport{Explainer: e, Socket: s, host: s.Netns == e.host}
	return t.answer()
}

// socketReport puts into words what the hooks do with a socket.
type socketReport struct {
	*Explainer
	Socket
	host  bool
	steps report // of which only the steps are used
}

func (t *socketReport) question() bpf.SocketQuestion {
	q := bpf.SocketQuestion{
		Netns: t.Netns, Addr: maps.EncodeAddr(t.To.Addr()), Port: maps.NetPort(t.To.Port()), Protocol: protocols[t.Proto], Family: unix.AF_INET6,
	}
	if t.From.IsValid() {
		q.Source = maps.EncodeAddr(t.From)
	}
	if t.To.Addr().Is4() {
		q.Family = unix.AF_INET
	}
	if t.Sends {
		q.Sends = 1
	}
	return q
}

// call returns the system call of the question, and the program that sees it.
func (t *socketReport) call() (call, program string) {
	family := "6"
	if t.To.Addr().Is4() {
		family = "4"
	}
	if t.Sends {
		return "sendto", "waggle_sendmsg" + family
	}
	return "connect", "waggle_connect" + family
}

func (t *socketReport) answer() (*Answer, error) {
	t.steps.Explainer = t.Explainer
	call, program := t.call()
	client := "a process of this node"
	if !t.host {
		client = "a process in another network namespace"
	}
	a := &Answer{Asked: fmt.Sprintf("%s calls %s, %s to %s", client, call, t.Proto, t.To)}
	h := Hook{Hook: bpf.HookName(bpf.HookSock), Program: program}
	for pick := uint32(0); ; pick++ {
		notes, err := t.twin.Socket(t.question(), pick)
		if err != nil {
			return nil, err
		}
		if pick == 0 {
			if err := t.describeHook(notes); err != nil {
				return nil, err
			}
		}
		o, err := t.outcome(notes)
		if err != nil {
			return nil, err
		}
		count := notes.Service.Internal.Count
		if notes.Steps&bpf.TraceRandom != 0 && count > 0 {
			o.Share = 1 / float64(count)
		}
		h.Outcomes = append(h.Outcomes, o)
		if notes.Steps&bpf.TraceRandom == 0 || pick+1 >= min(count, maxCandidates) {
			break
		}
	}
	h.Steps = t.steps.steps
	a.Hooks = []Hook{h}
	return a, nil
}

func (t *socketReport) describeHook(n bpf.Notes) error {
	s := &t.steps
	if n.Steps&bpf.TraceFrontend == 0 {
		if n.Steps&bpf.TraceService != 0 {
			s.step("frontend", "none at %s/%s", t.To, maps.ProtoName(protocols[t.Proto]))
		}
		if words := clusterWords(n); n.Steps&bpf.TraceCluster != 0 && words != "" {
			s.step("address", "%s %s", t.To.Addr(), words)
		}
		return nil
	}
	svc := maps.DecodeService(n.Service)
	name, err := t.serviceName(svc.ID)
	if err != nil {
		return err
	}
	s.step("frontend", "%s %s/%s of %s", svc.Kind, t.To, maps.ProtoName(protocols[t.Proto]), name)
	if svc.SourceRanges && t.host {
		ranges, err := t.ranges(svc.ID)
		if err != nil {
			return err
		}
		admits := "admits"
		if bpf.Verdict(n.Socket.Verdict) == bpf.VerdictDropSourceRange {
			admits = "does not admit"
		}
		s.step("sources", "loadBalancerSourceRanges %s %s the node's address", ranges, admits)
	}
	client := "a process of this node"
	if !t.host {
		client = "a process of a pod"
	}
	s.scope(client, svc.InternalLocal, "internalTrafficPolicy", svc.Internal.Count)
	return s.choice(n, svc, n.Service.Internal)
}

func (t *socketReport) outcome(n bpf.Notes) (Outcome, error) {
	q := n.Socket
	verdict := bpf.Verdict(q.Verdict)
	o := Outcome{Verdict: verdictName(verdict), Action: actionOn}
	switch verdict {
	case bpf.VerdictSockConnect, bpf.VerdictSockSendmsg:
		b, ok, err := maps.ReadBackend(t.view, q.Backend)
		if err != nil || !ok {
			return o, err
		}
		o.Way, o.Backend, o.Endpoint = "socket", q.Backend, netip.AddrPortFrom(b.Addr, b.Port)
		o.Dest = o.Endpoint.String()
		o.Reason = "the call goes to the endpoint; the process still sees the service's address"
		return o, nil
	case bpf.VerdictNotOurs:
		o.Reason, o.Advice = t.notOurs(n)
		return o, nil
	}
	o.Action = "failed"
	var err error
	o.Reason, o.Advice, err = t.failure(verdict, n)
	return o, err
}

func (t *socketReport) notOurs(n bpf.Notes) (reason, advice string) {
	switch {
	case n.Steps&bpf.TraceService == 0 && t.hostsAlone && !t.host:
		return "the agent leaves the sockets of pods to the hooks on their devices (--socket-lb=host)", "Ask with --pod NAME instead of --socket."
	case t.masquerades && !t.host && n.Steps&bpf.TraceFrontend != 0 && maps.DecodeService(n.Service).Kind == maps.ClusterIP:
		return "the agent gives all clients of cluster IPs another source (--masquerade-all), so the hook on the pod's device serves it, by its packets",
			"Ask with --pod NAME instead of --socket."
	case n.Steps&bpf.TraceFrontend != 0 && !t.host:
		return "the hook on the pod's device serves it, by its packets", "Ask with --pod NAME instead of --socket."
	case n.ClusterOwner == uint32(bpf.ClusterAddrOthers):
		return "the service belongs to another service proxy (label service.kubernetes.io/service-proxy-name)", ""
	}
	return "it is for no service: the call goes on unchanged", ""
}

// failure says how a call fails, and why.
func (t *socketReport) failure(v bpf.Verdict, n bpf.Notes) (reason, advice string, err error) {
	switch v {
	case bpf.VerdictRefused:
		if n.Steps&bpf.TraceFrontend == 0 {
			advice, err := t.nearMisses(maps.Tuple{Dst: t.To, Proto: protocols[t.Proto]})
			return "the address is a service's, and the service has no such port: the call fails with ECONNREFUSED", advice, err
		}
		name, err := maps.ReadName(t.view, n.Service.Id)
		return "the service has no ready endpoint: the call fails with ECONNREFUSED", endpointsAdvice(name), err
	case bpf.VerdictDropNoRoute:
		return "the socket is bound to a loopback address, and no endpoint is this node itself: the call fails with ENETUNREACH", "Bind the socket to no address, or to one of the node's.", nil
	}
	w := plainWords[v]
	return w.reason + ": the call fails with ETIMEDOUT", w.advice, nil
}
