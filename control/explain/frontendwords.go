// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// serviceName returns the name of a service's port, for messages.
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

func (t *report) frontend(trace *loader.Trace) error {
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
	return t.choice(trace.Notes, svc, ScopeOf(trace))
}

// chose reports whether the program looked for a backend.
func chose(trace *loader.Trace) bool {
	switch trace.Verdict {
	case bpf.VerdictRefused, bpf.VerdictDropNoLocalEndpoint:
		return true
	case bpf.VerdictLeftToTC:
		return !found(trace)
	}
	return trace.Record.Backend != 0
}

func (t *report) sources(trace *loader.Trace, svc maps.Service, client netip.Addr) error {
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

// client describes the scope of the client's policy, and the number of endpoints in it.
func (t *report) client(trace *loader.Trace, svc maps.Service) {
	client, local, policy := "outside of the cluster", svc.ExternalLocal, "externalTrafficPolicy"
	if trace.Opening.Internal {
		client, local, policy = "inside of the cluster", svc.InternalLocal, "internalTrafficPolicy"
		if trace.Opening.Pod {
			client = "a pod of this node"
		}
	}
	t.scope(client, local, policy, ScopeOf(trace).Count)
}

func (t *report) scope(client string, local bool, policy string, count uint32) {
	where := "for it, on any node"
	if local {
		where = "on this node, and only those count (" + policy + ": Local)"
	}
	many := fmt.Sprint(count, " endpoints")
	switch count {
	case 0:
		many = "no endpoint"
	case 1:
		many = "1 endpoint"
	}
	t.step("client", "%s; %s %s", client, many, where)
}

func (t *report) choice(n bpf.Notes, svc maps.Service, scope bpf.Scope) error {
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

func (t *report) affinityWords(n bpf.Notes, svc maps.Service) (string, error) {
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

// noFrontend describes a destination that is no frontend.
func (t *report) noFrontend(trace *loader.Trace) error {
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

// clusterWords describes an address that has no frontend at this port.
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

func (t *report) icmp(trace *loader.Trace) {
	quoted := maps.DecodeTuple(familyOf(trace), trace.Quoted)
	about := fmt.Sprintf("an error about %s, %s to %s", maps.ProtoName(quoted.Proto), quoted.Src, quoted.Dst)
	if trace.Verdict == bpf.VerdictNotOurs {
		t.step("flow", "%s: no record of such a flow", about)
		return
	}
	t.step("flow", "%s, which is a flow's", about)
}
