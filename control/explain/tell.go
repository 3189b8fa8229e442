// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// telling puts into words what one program would do with a packet.
type telling struct {
	*Explainer
	hook, program string
	device        device
	frame         []byte
	recorded      bool // the program before it would have recorded the flow
	steps         []Step
}

// What programs do with a packet at last.
const (
	actionOn      = "passed on" // to the next program, or to the stack
	actionSent    = "sent"
	actionDropped = "dropped"
)

func (t *telling) step(name, format string, args ...any) {
	t.steps = append(t.steps, Step{name, fmt.Sprintf(format, args...)})
}

func (t *telling) tell(traces []asked) (Hook, error) {
	trace := traces[0].Trace
	if err := t.toldSteps(trace, len(traces) == 1); err != nil {
		return Hook{}, err
	}
	h := Hook{Hook: t.hookName(), Device: t.device.name, Program: t.program}
	for _, one := range traces {
		o, err := t.outcome(one.Trace)
		if err != nil {
			return Hook{}, err
		}
		if total := scopeOf(trace).Count; trace.Notes.Steps&bpf.TraceRandom != 0 && total > 0 {
			o.Share = 1 / float64(total)
		}
		h.Outcomes = append(h.Outcomes, o)
	}
	h.Steps = t.steps
	if t.hook == hookXDP {
		h.leaveToTC(trace)
	}
	return h, nil
}

// leaveToTC: what XDP does nothing about is for tc to decide, and to be told of there.
func (h *Hook) leaveToTC(trace *loader.Trace) {
	for _, o := range h.Outcomes {
		if o.Action != actionOn || o.Opens || o.Way != "" {
			return
		}
	}
	for i := range h.Outcomes {
		if trace.Verdict != bpf.VerdictLeftToTC {
			h.Outcomes[i].Reason = "XDP does nothing about it: tc looks at it next"
		}
		h.Outcomes[i].Advice = ""
	}
	h.Steps = h.Steps[:min(len(h.Steps), 1)]
}

// hookName is the hook as counters and metrics name it.
func (t *telling) hookName() string {
	if t.program == "waggle_pod" {
		return bpf.HookName(bpf.HookTCPod)
	}
	return t.hook
}

func (t *telling) toldSteps(trace *loader.Trace, single bool) error {
	if !t.parsed(trace) {
		return nil
	}
	steps := trace.Notes.Steps
	if steps&bpf.TraceICMP != 0 {
		t.icmp(trace)
		return nil
	}
	if understood(trace) {
		if err := t.flow(trace); err != nil {
			return err
		}
	}
	if err := t.frontend(trace); err != nil {
		return err
	}
	if steps&bpf.TraceSocket != 0 {
		t.step("socket", "a socket of this node has the connection")
	}
	if steps&bpf.TraceFIB != 0 && single {
		t.step("route", "%s", fibWords(trace))
	}
	return nil
}

func familyOf(trace *loader.Trace) maps.Family {
	if trace.Packet.Family == unix.AF_INET {
		return maps.IPv4
	}
	return maps.IPv6
}

func tupleOf(trace *loader.Trace) maps.Tuple {
	return maps.DecodeTuple(familyOf(trace), trace.Packet.Tuple)
}

// understood: ports were read, so that there is a tuple to look up.
func understood(trace *loader.Trace) bool {
	switch trace.Verdict {
	case bpf.VerdictUnparsed, bpf.VerdictFragment:
		return trace.Notes.Steps&bpf.TraceService != 0
	}
	proto := trace.Packet.Tuple.Proto
	return proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP
}

// parsed tells what the packet is. False: nobody has looked into it.
func (t *telling) parsed(trace *loader.Trace) bool {
	p := trace.Packet
	if p.Family == 0 {
		t.step("parsed", "%s", t.frameWords(trace.Verdict))
		return false
	}
	tuple := tupleOf(trace)
	what := fmt.Sprintf("IPv%d, %s", familyOf(trace), protocolName(p.Tuple.Proto))
	if !understood(trace) {
		t.step("parsed", "%s, %s to %s", what, tuple.Src.Addr(), tuple.Dst.Addr())
		return true
	}
	if flags := flagWords(p); flags != "" {
		what += " " + flags
	}
	what += fmt.Sprintf(", %s to %s, %d bytes, TTL %d", tuple.Src, tuple.Dst, p.Len, p.Ttl)
	switch p.Fragment {
	case bpf.FragmentFirst:
		what += ", a first fragment"
	case bpf.FragmentLater:
		what += ", a later fragment: its ports are those of the first, which came before it"
	}
	t.step("parsed", "%s", what)
	return true
}

func protocolName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ICMP"
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		return maps.ProtoName(proto)
	}
	return fmt.Sprintf("protocol %d", proto)
}

func flagWords(p bpf.Packet) string {
	if p.Tuple.Proto == unix.IPPROTO_UDP {
		return ""
	}
	var set []string
	for _, name := range []string{"syn", "ack", "fin", "rst"} {
		if p.TcpFlags&tcpFlags[name] != 0 {
			set = append(set, strings.ToUpper(name))
		}
	}
	if p.Tuple.Proto == unix.IPPROTO_SCTP {
		return sctpWords(set)
	}
	return strings.Join(set, ",")
}

// sctpWords names the chunk that is taken for TCP's flags.
func sctpWords(flags []string) string {
	switch strings.Join(flags, ",") {
	case "SYN":
		return "INIT"
	case "SYN,ACK":
		return "INIT ACK"
	case "RST":
		return "ABORT"
	case "ACK,FIN":
		return "SHUTDOWN"
	}
	return "DATA"
}

// frameWords says why a frame was not looked into.
func (t *telling) frameWords(v bpf.Verdict) string {
	switch v {
	case bpf.VerdictVlan:
		return "a frame with a VLAN tag: the VLAN's own device sees it"
	case bpf.VerdictNotIP:
		return "no IP packet"
	}
	if tagged(t.frame) {
		return "a frame with a VLAN tag: the VLAN's own device sees it"
	}
	if len(t.frame) >= len(t.device.mac) && t.device.mac != nil {
		to := net.HardwareAddr(t.frame[:6])
		if to[0]&1 != 0 {
			return fmt.Sprintf("a frame to %s, which is to many: the stack drops what it holds for one host", to)
		}
		if to.String() != t.device.mac.String() {
			return fmt.Sprintf("a frame to %s, and the address of %s is %s: a switch has flooded it", to, t.device.name, t.device.mac)
		}
	}
	return "not looked into"
}

// found: there is a record of the packet's tuple that may be used.
func found(trace *loader.Trace) bool {
	if opened(trace) || !understood(trace) {
		return false
	}
	if bpf.Zone(trace.Packet.Tuple.Zone) == bpf.ZoneLeaving {
		return trace.Verdict == bpf.VerdictSource
	}
	return trace.Notes.Steps&bpf.TraceService == 0
}

func opened(trace *loader.Trace) bool { return slices.Contains(trace.Events, bpf.VerdictFlowOpened) }

func (t *telling) flow(trace *loader.Trace) error {
	switch {
	case t.recorded:
		t.step("flow", "the record that %s has made", hookXDP)
	case found(trace):
		words, err := t.recordWords(trace.Record, trace)
		if err != nil {
			return err
		}
		t.step("flow", "%s", words)
	case trace.Notes.Steps&bpf.TraceEnded != 0:
		words, err := t.recordWords(trace.Notes.Ended, trace)
		if err != nil {
			return err
		}
		t.step("flow", "%s; it no longer counts: %s", words, t.endedWords(trace))
	default:
		t.step("flow", "no record of this tuple")
	}
	return nil
}

// recordWords: whose record it is, how old, and what it says.
func (t *telling) recordWords(r bpf.Record, trace *loader.Trace) (string, error) {
	to := maps.DecodeTuple(familyOf(trace), r.To)
	side := "the client's record of"
	if r.Flags&bpf.FlowReply != 0 {
		side = "the backend's record of"
	}
	whose := "a connection that is no service's"
	if r.Flags&bpf.FlowForeign != 0 {
		side, whose = "the record of", "a connection of another translator"
	} else if r.Service != 0 {
		name, err := t.serviceName(r.Service)
		if err != nil {
			return "", err
		}
		whose = "a flow of " + name
	} else {
		side = "the record of"
	}
	idle := time.Duration(max(int32(r.Time-r.LastSeen), 0)) * time.Second / time.Duration(t.hz)
	return fmt.Sprintf("%s %s, way %s, %s, last packet %s ago, rewrites to %s -> %s", side, whose, wayOf(r.Flags),
		stateWords(r.Tag), idle.Round(time.Second), to.Src, to.Dst), nil
}

func stateWords(tag uint32) string {
	switch {
	case tag&bpf.StateReset != 0:
		return "reset"
	case tag&bpf.StateFinClient != 0 && tag&bpf.StateFinBackend != 0:
		return "closed"
	case tag&(bpf.StateFinClient|bpf.StateFinBackend) != 0:
		return "half closed"
	case tag&bpf.StateConfirmed != 0:
		return "confirmed"
	case tag&bpf.StateAnswered != 0:
		return "answered"
	}
	return "not answered yet"
}

func (t *telling) endedWords(trace *loader.Trace) string {
	r := trace.Notes.Ended
	closed := r.Tag&bpf.StateReset != 0 || r.Tag&bpf.StateFinClient != 0 && r.Tag&bpf.StateFinBackend != 0
	if closed && trace.Packet.TcpFlags&tcpFlags["syn"] != 0 {
		return "the connection was closed, and this packet begins one anew"
	}
	if int32(r.Time-r.LastSeen) > int32(t.timeout(r.Tag, trace.Packet.Tuple.Proto)) {
		return "it is past its time"
	}
	return "what goes with it is another flow's"
}

// timeout is how long a record outlives its last packet, in jiffies: flow_timeout() in bpf/flow.h.
func (c *constants) timeout(tag uint32, proto uint8) uint32 {
	fins := bpf.StateFinClient | bpf.StateFinBackend
	switch {
	case proto == unix.IPPROTO_UDP && tag&bpf.StateAnswered != 0:
		return c.udp
	case proto == unix.IPPROTO_UDP:
		return c.unanswered
	case tag&bpf.StateReset != 0:
		return c.reset
	case tag&fins == fins:
		return c.closed
	case tag&bpf.StateConfirmed == 0:
		return c.unanswered
	case tag&fins != 0:
		return c.halfClosed
	}
	return c.tcp
}

func wayOf(flags uint16) string {
	switch {
	case flags&bpf.FlowForeign != 0:
		return "foreign"
	case flags&(bpf.FlowSplit|bpf.FlowSplitSource) != 0:
		return "split"
	case flags&bpf.FlowTurn != 0:
		return "turn"
	case flags&bpf.FlowExpress != 0:
		return "express"
	}
	return "stack"
}

// serviceName is a service's port for people.
func (e *Explainer) serviceName(id uint32) (string, error) {
	name, err := maps.ReadName(e.view, id)
	if err != nil {
		return "", err
	}
	if name == (maps.Name{}) {
		return fmt.Sprintf("a service that is gone (id %d)", id), nil
	}
	words := name.Namespace + "/" + name.Name
	if name.Port != "" {
		words += ", port " + name.Port
	}
	return words, nil
}

func (t *telling) frontend(trace *loader.Trace) error {
	notes := trace.Notes
	tuple := tupleOf(trace)
	if notes.Steps&bpf.TraceFrontend == 0 {
		return t.noFrontend(trace)
	}
	if t.recorded {
		return nil
	}
	svc := maps.DecodeService(notes.Service)
	name, err := t.serviceName(svc.ID)
	if err != nil {
		return err
	}
	t.step("frontend", "%s %s/%s of %s", svc.Kind, tuple.Dst, maps.ProtoName(tuple.Proto), name)
	if !chose(trace) {
		return t.sources(trace, svc, tuple.Src.Addr())
	}
	if err := t.sources(trace, svc, tuple.Src.Addr()); err != nil {
		return err
	}
	t.client(trace, svc)
	return t.choice(trace.Notes, svc, scopeOf(trace))
}

// chose: a backend was looked for.
func chose(trace *loader.Trace) bool {
	switch trace.Verdict {
	case bpf.VerdictRefused, bpf.VerdictDropNoLocalEndpoint:
		return true
	case bpf.VerdictLeftToTC:
		return !found(trace)
	}
	return trace.Record.Backend != 0
}

func (t *telling) sources(trace *loader.Trace, svc maps.Service, client netip.Addr) error {
	if !svc.SourceRanges || trace.Notes.Steps&bpf.TraceSocket != 0 {
		return nil
	}
	ranges, err := t.ranges(svc.ID)
	if err != nil {
		return err
	}
	if trace.Verdict == bpf.VerdictDropSourceRange {
		t.step("sources", "%s is in none of loadBalancerSourceRanges %s", client, ranges)
		return nil
	}
	t.step("sources", "%s is in loadBalancerSourceRanges %s", client, ranges)
	return nil
}

func (e *Explainer) ranges(id uint32) (string, error) {
	all, err := maps.NewSources(e.view).All()
	if err != nil {
		return "", err
	}
	of := all[id]
	slices.SortFunc(of, netip.Prefix.Compare)
	return fmt.Sprint(of), nil
}

// client tells which scope is in force, and what is in it.
func (t *telling) client(trace *loader.Trace, svc maps.Service) {
	who, local, policy := "outside of the cluster", svc.ExternalLocal, "externalTrafficPolicy"
	if trace.Opening.Internal {
		who, local, policy = "inside of the cluster", svc.InternalLocal, "internalTrafficPolicy"
		if trace.Opening.Pod {
			who = "a pod of this node"
		}
	}
	t.scope(who, local, policy, scopeOf(trace).Count)
}

func (t *telling) scope(who string, local bool, policy string, count uint32) {
	where := "endpoints of any node"
	if local {
		where = "endpoints of this node only (" + policy + ": Local)"
	}
	many := "none"
	if count > 0 {
		many = fmt.Sprint(count)
	}
	t.step("client", "%s; %s: %s", who, where, many)
}

func (t *telling) choice(n bpf.Notes, svc maps.Service, scope bpf.Scope) error {
	switch {
	case svc.Affinity == 0:
	case n.Steps&bpf.TraceAffinity == 0:
		t.step("affinity", "ClientIP, %s: the client is not remembered", seconds(svc.Affinity))
	default:
		words, err := t.affinityWords(n, svc)
		if err != nil {
			return err
		}
		t.step("affinity", "ClientIP, %s: %s", seconds(svc.Affinity), words)
	}
	if n.Steps&bpf.TraceRandom != 0 && scope.Count > 1 {
		t.step("choice", "random, each of %d with the same probability", scope.Count)
	}
	return nil
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func (t *telling) affinityWords(n bpf.Notes, svc maps.Service) (string, error) {
	b, ok, err := maps.ReadBackend(t.view, n.Remembered)
	if err != nil {
		return "", err
	}
	where := "an endpoint that is gone"
	if ok {
		where = netip.AddrPortFrom(b.Addr, b.Port).String()
	}
	ago := time.Duration(n.RememberedFor) * time.Second / time.Duration(t.hz)
	words := fmt.Sprintf("the client was led to %s %s ago", where, ago.Round(time.Second))
	switch {
	case n.Steps&bpf.TraceRemembered != 0:
		return words + ", and is led there again", nil
	case ago > seconds(svc.Affinity):
		return words + ", which is too long ago", nil
	}
	return words + ", which is not among the endpoints for this client", nil
}

// noFrontend: the destination is no frontend. What else it is decides.
func (t *telling) noFrontend(trace *loader.Trace) error {
	tuple := tupleOf(trace)
	notes := trace.Notes
	if notes.Steps&bpf.TraceService != 0 {
		t.step("frontend", "none at %s/%s", tuple.Dst, maps.ProtoName(tuple.Proto))
	}
	if notes.Steps&bpf.TraceCluster == 0 {
		return nil
	}
	words := clusterWords(notes)
	if words != "" && !understood(trace) {
		words = "is the cluster IP of a service"
	}
	if words == "" {
		return nil
	}
	t.step("address", "%s %s", tuple.Dst.Addr(), words)
	return nil
}

// clusterWords: what an address is that is no frontend's at this port.
func clusterWords(n bpf.Notes) string {
	switch {
	case n.ClusterOwner == uint32(bpf.ClusterAddrOurs):
		return "is the cluster IP of a service, at other ports"
	case n.ClusterOwner == uint32(bpf.ClusterAddrOthers):
		return "is the cluster IP of a service of another service proxy"
	case n.ClusterFlags&bpf.ClusterRangeDrop != 0:
		return "is in a service CIDR, and no service has it"
	}
	return ""
}

func (t *telling) icmp(trace *loader.Trace) {
	quoted := maps.DecodeTuple(familyOf(trace), trace.Quoted)
	about := fmt.Sprintf("an error about %s, %s to %s", maps.ProtoName(quoted.Proto), quoted.Src, quoted.Dst)
	if trace.Verdict == bpf.VerdictNotOurs {
		t.step("flow", "%s: no record of such a flow", about)
		return
	}
	t.step("flow", "%s, which is a flow's", about)
}
