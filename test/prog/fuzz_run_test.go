// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/model"
)

// fuzzRun is a run of a script through the programs and the model.
type fuzzRun struct {
	*fuzzNode
	script   script
	model    *model.Node
	rewrites map[int]rewrite // by flow
	services map[uint32]*model.Service
	slots    uint32
	strict   bool // compare all maps after each step, not only at the end
	packets  int
	led      map[model.Tuple]netip.AddrPort // the backends of packets to frontends
	torn     bool                           // halves of flows have been removed
	sources  map[netip.Addr]bool            // of packets that were rewritten, some of which the script has mangled
	log      func(format string, args ...any)
}

// difference is a step at which the programs and the model differ.
type difference struct {
	step int
	what string
}

func (d *difference) Error() string { return fmt.Sprintf("step %d: %s", d.step, d.what) }

// play runs a script, and returns the number of packets that the programs got.
func (n *fuzzNode) play(s script, strict bool, log func(string, ...any)) (packets int, err error) {
	if err := n.clear(); err != nil {
		return 0, err
	}
	if _, err := n.counters(); err != nil {
		return 0, err
	}
	r := &fuzzRun{
		fuzzNode: n, script: s, strict: strict, log: log,
		rewrites: make(map[int]rewrite), led: make(map[model.Tuple]netip.AddrPort), services: make(map[uint32]*model.Service),
		sources: make(map[netip.Addr]bool),
	}
	r.model = model.NewNode(fuzzConfig(n.limits), n)
	n.reached = r.model.Counts
	if err := r.configure(); err != nil {
		return 0, err
	}
	for i, st := range s.Steps {
		err := r.step(st)
		if err == nil && (strict || st.Op == "age") {
			err = r.compareTables()
		}
		if err != nil {
			return r.packets, &difference{i, err.Error()}
		}
	}
	err = errors.Join(r.compareTables(), r.compareCounters())
	if err != nil {
		return r.packets, &difference{len(s.Steps), err.Error()}
	}
	return r.packets, nil
}

func (r *fuzzRun) configure() error {
	r.setGeneration()
	for _, l := range r.script.Local {
		r.model.Local = append(r.model.Local, l)
		must(r.maps[family("source_ranges", l.Addr())].Put(sourceKey(localSources, l), uint8(1)))
	}
	var set bpf.ClusterRangeSet
	for _, c := range r.script.CIDRs {
		r.model.ClusterRanges[c.Prefix] = c.Drop
		element := bpf.ClusterRange{Addr: words(c.Prefix.Addr()), Mask: words(maskOf(c.Prefix)), Flags: bpf.ClusterRangeUsed}
		if c.Drop {
			element.Flags |= bpf.ClusterRangeDrop
		}
		list := &set.V4
		if c.Prefix.Addr().Is6() {
			list = &set.V6
		}
		for i := range list {
			if list[i].Flags == 0 {
				list[i] = element
				break
			}
		}
	}
	must(r.maps["cluster_ranges"].Put(uint32(0), bpf.ClusterGuard{Sets: [2]bpf.ClusterRangeSet{set}}))
	all := bpf.ClusterRange{Flags: bpf.ClusterRangeUsed}
	must(r.maps["pod_ranges"].Put(uint32(0), bpf.ClusterGuard{Sets: [2]bpf.ClusterRangeSet{{
		V4: [4]bpf.ClusterRange{all}, V6: [4]bpf.ClusterRange{all},
	}}}))
	for i := range r.script.Services {
		if err := r.announce(i); err != nil {
			return err
		}
	}
	return nil
}

func (r *fuzzRun) setGeneration() {
	must(r.maps["runtime"].Put(uint32(0), bpf.RuntimeState{Generation: r.model.Generation}))
}

// maskOf returns a prefix's mask, as an address.
func maskOf(p netip.Prefix) netip.Addr {
	ones := bytes.Repeat([]byte{0xff}, p.Addr().BitLen()/8)
	a, _ := netip.AddrFromSlice(ones)
	masked, err := a.Prefix(p.Bits())
	must(err)
	return masked.Addr()
}

func backendID(service, backend int) uint32 { return uint32(1 + service*16 + backend) }

// announce adds a service.
func (r *fuzzRun) announce(i int) error {
	s := r.script.Services[i]
	known := &model.Service{ID: s.ID, Affinity: s.Affinity, Ranges: s.Ranges}
	r.services[s.ID] = known
	for _, prefix := range s.Ranges {
		must(r.maps[family("source_ranges", prefix.Addr())].Put(sourceKey(s.ID, prefix), uint8(1)))
	}
	for j, b := range s.Backends {
		id := backendID(i, j)
		known.Backends = append(known.Backends, id)
		if r.model.Backends[id] == nil {
			r.model.Backends[id] = &model.Backend{ID: id, Service: s.ID, Addr: b.Addr}
			r.setBackend(i, j, b.In)
		}
	}
	for _, f := range s.Frontends {
		r.model.Frontends[model.Frontend{Addr: f.Addr, Proto: s.Proto}] = &model.Policy{
			Service: known, Kind: model.Kind(f.Kind), ExternalLocal: f.ExternalLocal, InternalLocal: f.InternalLocal,
		}
		if a := f.Addr.Addr(); model.Kind(f.Kind) == model.ClusterIP {
			r.model.ClusterAddrs[a] = true
			b := a.As16()
			must(r.maps["cluster_addrs"].Put(b[:], uint8(1)))
		}
	}
	return r.publish(i)
}

func (r *fuzzRun) setBackend(i, j int, in membership) {
	s := r.script.Services[i]
	b := r.model.Backends[backendID(i, j)]
	p := planOf(b.Addr.Addr())
	a := b.Addr.Addr()
	b.Local = a == p.pod || a == p.pod2 || a == p.back
	b.InCluster, b.InSelf, b.Kept = in&inCluster != 0, in&inSelf != 0, in&inNone != 0
	value := bpf.Backend{Addr: words(a), Port: netPort(b.Addr.Port()), Service: s.ID, Proto: s.Proto}
	for flag, set := range map[uint8]bool{
		bpf.BackendLocal: b.Local, bpf.BackendIPv6: a.Is6(), bpf.BackendInClusterSet: b.InCluster,
		bpf.BackendInLocalSet: b.InSelf, bpf.BackendKept: b.Kept,
	} {
		if set {
			value.Flags |= flag
		}
	}
	must(r.maps["backends"].Put(b.ID, value))
}

// publish writes a service's slots and then its frontends, as the agent does.
func (r *fuzzRun) publish(i int) error {
	s := r.script.Services[i]
	block := func(local bool) bpf.Scope {
		scope := bpf.Scope{First: r.slots}
		for _, id := range r.services[s.ID].Backends {
			if b := r.model.Backends[id]; local && b.InSelf || !local && b.InCluster {
				must(r.maps["slots"].Put(r.slots, id))
				r.slots++
				scope.Count++
			}
		}
		return scope
	}
	if r.slots > mapSize-64 {
		r.slots = 0
	}
	all, here := block(false), block(true)
	for _, f := range s.Frontends {
		policy := r.model.Frontends[model.Frontend{Addr: f.Addr, Proto: s.Proto}]
		if policy == nil {
			continue
		}
		value := bpf.Service{Id: s.ID, Affinity: uint32(s.Affinity), External: all, Internal: all}
		value.Flags = []uint32{bpf.ServiceClusterIP, bpf.ServiceNodePort, bpf.ServiceExternalIP, bpf.ServiceLoadBalancer}[f.Kind]
		some := all.Count+here.Count > 0
		if f.ExternalLocal {
			value.External, value.Flags = here, value.Flags|bpf.ServiceExternalLocal
		}
		if f.InternalLocal {
			value.Internal, value.Flags = here, value.Flags|bpf.ServiceInternalLocal
		}
		if some && value.External.Count == 0 {
			value.Flags |= bpf.ServiceExternalDrop
		}
		if some && value.Internal.Count == 0 {
			value.Flags |= bpf.ServiceInternalDrop
		}
		if policy.Kind == model.LoadBalancer && policy.HasRanges(s.V6) {
			value.Flags |= bpf.ServiceSourceRanges
		}
		must(r.maps[family("services", f.Addr.Addr())].Put(serviceKey(f.Addr, s.Proto), value))
	}
	return nil
}

func serviceKey(a netip.AddrPort, proto uint8) any {
	if a.Addr().Is4() {
		return bpf.ServiceKey4{Addr: word(a.Addr()), Port: netPort(a.Port()), Proto: proto}
	}
	return bpf.ServiceKey6{Addr: words(a.Addr()), Port: netPort(a.Port()), Proto: proto}
}

func (r *fuzzRun) step(st step) error {
	switch st.Op {
	case "packet":
		if st.Packet.Flow < len(r.script.Flows) {
			return r.packet(*st.Packet)
		}
	case "age":
		return r.age(st.N)
	case "evict":
		return r.evict(st.N)
	case "generation":
		r.model.Generation++
		r.setGeneration()
	case "neighbour":
		r.neighbour(st.N)
	case "expire":
		return r.expire()
	case "stale":
		r.model.Stale()
		return r.walk("waggle_stale", bpf.StaleCensus{})
	case "backend":
		if i, j := st.N>>8, st.N&255; i < len(r.script.Services) && j < len(r.script.Services[i].Backends) {
			r.setBackend(i, j, st.In)
			return r.publish(i)
		}
	case "delete":
		return r.withdraw(st.N)
	case "publish":
		if st.N < len(r.script.Services) {
			return r.announce(st.N)
		}
	default:
		return fmt.Errorf("unknown step %q", st.Op)
	}
	return nil
}

func (r *fuzzRun) withdraw(i int) error {
	if i >= len(r.script.Services) {
		return nil
	}
	s := r.script.Services[i]
	for _, f := range s.Frontends {
		delete(r.model.Frontends, model.Frontend{Addr: f.Addr, Proto: s.Proto})
		err := r.maps[family("services", f.Addr.Addr())].Delete(serviceKey(f.Addr, s.Proto))
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// walk runs a program over all flows.
func (r *fuzzRun) walk(name string, context any) error {
	for _, f := range []string{"4", "6"} {
		if _, err := r.walks[name+f].Run(&ebpf.RunOptions{Context: context}); err != nil {
			return err
		}
	}
	return nil
}

// expire walks until one record's death has had its effect on others.
func (r *fuzzRun) expire() error {
	for range 2 {
		r.model.Expire()
		if err := r.walk("waggle_expire", bpf.Census{Release: 1}); err != nil {
			return err
		}
	}
	return nil
}

func (r *fuzzRun) age(seconds int) error {
	r.model.Clock += seconds
	for _, t := range r.tables {
		t.ageFlows(seconds)
	}
	r.directs.age(seconds)
	return errors.Join(ageMap(r.maps["affinity"], 4, seconds), ageMap(r.maps["fragments"], 4, seconds))
}

func byName[T fmt.Stringer](a, b T) int { return strings.Compare(a.String(), b.String()) }

// evict removes records of unconfirmed flows, as a flood may.
func (r *fuzzRun) evict(n int) error {
	r.torn = true
	for _, v6 := range []bool{false, true} {
		table := r.model.Table(v6)
		tuples := slices.SortedFunc(maps.Keys(table), byName)
		tuples = slices.DeleteFunc(tuples, func(t model.Tuple) bool { return table[t].State&bpf.StateConfirmed != 0 })
		if len(tuples) == 0 {
			continue
		}
		victim := tuples[n%len(tuples)]
		delete(table, victim)
		if err := r.flowTable(victim.Src.Addr()).remove(keyOf(victim)); err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
	}
	return nil
}

// neighbour changes a next hop's MAC, or removes it, as the agent does.
func (r *fuzzRun) neighbour(n int) {
	known := slices.SortedFunc(maps.Keys(r.model.NextHops), func(a, b model.HopKey) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	if len(known) == 0 {
		return
	}
	key, mac, resolved := known[n%len(known)], [6]byte{2, 0xab, 0, 0, 0, byte(n)}, n%3 != 0
	for i := range r.maps["nexthops"].MaxEntries() {
		if hop := r.nexthopAt(i); hop.Generation != 0 && hopKeyOf(hop) == key {
			r.model.Neighbour(key, mac, resolved)
			hop.Hop.Dmac, hop.Hop.Flags = mac, hop.Hop.Flags&^bpf.HopResolved
			if resolved {
				hop.Hop.Flags |= bpf.HopResolved
			}
			must(r.maps["nexthops"].Put(i, hop))
			return
		}
	}
}

var deviceByName = func() map[string]*device {
	m := make(map[string]*device)
	for _, d := range allDevices {
		m[d.name] = d
	}
	return m
}()

var hookByName = map[string]bpf.Hook{
	"xdp": bpf.HookXDP, "ingress": bpf.HookTCIngress, "pod": bpf.HookTCPod, "egress": bpf.HookTCEgress,
}

func deviceByIndex(index int) *device {
	for _, d := range allDevices {
		if d.index == index {
			return d
		}
	}
	return nil
}

// packet sends a packet of a flow to a hook, or on its path through the node.
func (r *fuzzRun) packet(p packetOf) error {
	t := r.tupleOf(p)
	proto := t.Proto
	var rewritten *model.Tuple
	if rec := r.find(t); rec != nil {
		rewritten = &model.Tuple{Src: rec.Src, Dst: rec.Dst, Proto: proto}
	}
	if p.Hook != "" {
		d := deviceByName[p.Device]
		if p.Hook == "xdp" && d.flags&bpf.DeviceXDPTransmits == 0 {
			d = front
		}
		_, err := r.one(hookByName[p.Hook], d, p.frame(proto, t, rewritten, d))
		return err
	}
	if p.Error > 0 { // an error comes from where the packet went
		return r.from(r.wayTo(t.Dst.Addr()), p.frame(proto, t, rewritten, r.wayTo(t.Dst.Addr())), t.Src.Addr())
	}
	switch p.Way {
	case between:
		d := r.wayTo(t.Dst.Addr())
		_, err := r.one(bpf.HookTCEgress, d, p.frame(proto, t, rewritten, d))
		return err
	case reply:
		d := r.wayTo(t.Src.Addr())
		return r.from(d, p.frame(proto, t, rewritten, d), t.Dst.Addr())
	}
	d := deviceByName[r.script.Flows[p.Flow].From]
	return r.from(d, p.frame(proto, t, rewritten, d), t.Dst.Addr())
}

// wayTo returns the device that leads to an address.
func (r *fuzzRun) wayTo(a netip.Addr) *device {
	if d := deviceByIndex(route(a).Device); d != nil {
		return d
	}
	return front
}

// from sends a frame that comes in by a device through all hooks on its path.
func (r *fuzzRun) from(d *device, frame []byte, _ netip.Addr) error {
	hook := bpf.HookTCIngress
	if d == pod0 {
		hook = bpf.HookTCPod
	}
	if d.flags&bpf.DeviceXDPTransmits != 0 {
		result, err := r.one(bpf.HookXDP, d, frame)
		if err != nil || result.Action != model.Pass {
			return err
		}
	}
	result, err := r.one(hook, d, frame)
	if err != nil || result.Action != model.Pass {
		return err
	}
	routed, dst, ok := model.Forwarded(result.Frame)
	if !ok || r.model.IsOwn(dst) {
		return nil
	}
	_, err = r.one(bpf.HookTCEgress, r.wayTo(dst), routed)
	return err
}

// one sends a frame to one hook, and compares the result and its effects with the model.
func (r *fuzzRun) one(hook bpf.Hook, d *device, frame []byte) (model.Result, error) {
	sum := r.packets%2 == 0 && model.CanSum(frame)
	explained, explainErr := r.explain(hook, d.index, frame)
	got, err := r.run(hook, d.index, frame, sum)
	if errors.Is(err, unix.EINVAL) && hook != bpf.HookXDP && len(frame) < 14+40 {
		return model.Result{Action: model.Drop}, nil // shorter than an IP header, which test runs refuse
	}
	r.packets++
	if errors.Is(err, unix.EBADMSG) {
		return r.unsummed(hook, d, frame)
	}
	if err != nil {
		return got, fmt.Errorf("%s at %s: %w\n% x", bpf.HookName(hook), d.name, err, frame)
	}
	want, opened, err := r.expected(hook, d, frame)
	r.log("%s at %s: %s, %s\n  in  % x\n  out % x", bpf.HookName(hook), d.name, want.Action, bpf.VerdictName(want.Verdict), frame, got.Frame)
	switch {
	case err != nil:
	case got.Action != want.Action:
		err = fmt.Errorf("action %s, want %s", got.Action, want.Action)
	case want.Action != model.Drop && !bytes.Equal(got.Frame, want.Frame):
		err = fmt.Errorf("frame\n  is   % x\n  want % x", got.Frame, want.Frame)
	case want.Action != model.Drop:
		err = r.invariants(want.Verdict, frame, got.Frame)
	}
	err = errors.Join(err, explainErr, r.stays(hook, want.Verdict, opened, frame, got.Frame))
	if now := (outcome{want.Verdict, got.Action}); !slices.Contains(explained, now) {
		err = errors.Join(err, fmt.Errorf("it was explained as %v, and is %s", explained, now))
	}
	if err != nil {
		return got, fmt.Errorf("%s at %s: %s, %w\n  in   % x", bpf.HookName(hook), d.name, bpf.VerdictName(want.Verdict), err, frame)
	}
	return model.Result{Action: got.Action, Frame: bytes.Clone(got.Frame)}, nil
}

// expected is what the model does with a frame, and whether that has opened a flow.
func (r *fuzzRun) expected(hook bpf.Hook, d *device, frame []byte) (want model.Result, opened bool, err error) {
	before, unsure, directs := r.model.Counts[hook][bpf.VerdictFlowOpened], r.model.Unsure, len(r.model.Direct)
	want, err = r.model.Process(hook, d.index, frame)
	if len(r.model.Direct) > directs {
		err = errors.Join(err, r.noted())
	}
	if r.model.Unsure > unsure { // the next hop of the chosen backend may have been looked up
		r.model.NextHops = r.nextHops()
	}
	return want, r.model.Counts[hook][bpf.VerdictFlowOpened] != before, err
}

// noted compares the number of direct tuples that the programs and the model know.
func (r *fuzzRun) noted() error {
	have, want := len(r.directs.used()), len(r.model.Direct)
	if have == want || have < want && r.model.Shared {
		return nil
	}
	r.model.Shared = true
	if have == 0 || have+1 < want || have > want { // it is most unlikely that two pairs share places
		return fmt.Errorf("%d tuples of direct datagrams are noted, want %d", have, want)
	}
	return nil
}

// unsummed is the result for a frame that a device should have summed, but that has become shorter, which removes the
// device's sum: the kernel does not return such a frame.
func (r *fuzzRun) unsummed(hook bpf.Hook, d *device, frame []byte) (model.Result, error) {
	want, opened, err := r.expected(hook, d, frame)
	if err == nil && want.Verdict != bpf.VerdictRefused && want.Verdict != bpf.VerdictTooBig {
		err = errors.New("a device's sum is not that of the packet any more")
	}
	err = errors.Join(err, r.stays(hook, want.Verdict, opened, frame, want.Frame))
	if err != nil {
		return want, fmt.Errorf("%s at %s: %s, %w\n  in   % x", bpf.HookName(hook), d.name, bpf.VerdictName(want.Verdict), err, frame)
	}
	return model.Result{Action: want.Action, Frame: want.Frame}, nil
}

// compareTables compares the flow tables with the model's records. Dead records may be missing.
func (r *fuzzRun) compareTables() error {
	now, err := r.jiffies()
	if err != nil {
		return err
	}
	wrong := slices.Concat(r.compareFlows(false, now), r.compareFlows(true, now), r.compareAffinity(now), r.compareNextHops())
	if t, torn := r.model.Torn(); torn && !r.torn {
		wrong = append(wrong, fmt.Sprintf("the flow of %s has no way back", t))
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

func (r *fuzzRun) compareFlows(v6 bool, now uint32) (wrong []string) {
	want, have := r.model.Table(v6), make(map[model.Tuple]bool)
	table := r.flowTable(map[bool]netip.Addr{false: plan4.client, true: plan6.client}[v6])
	records, _ := table.contents()
	for _, found := range records {
		t := tupleOfKey(found.key)
		if have[t] {
			wrong = append(wrong, fmt.Sprintf("%s has two records", t))
		}
		have[t] = true
		known := want[t]
		if known == nil {
			wrong = append(wrong, fmt.Sprintf("%s has a record, the model has none\n  %+v", t, found))
			continue
		}
		if is, should := r.comparable(found, *known, now); is != should {
			wrong = append(wrong, fmt.Sprintf("%s\n  is   %+v\n  want %+v", t, is, should))
		}
		if version := found.tag & bpf.TagVersionMask / bpf.TagVersion; hopVersion(found.Hop) != version {
			wrong = append(wrong, fmt.Sprintf("%s is version %d, its next hop of %d", t, version, hopVersion(found.Hop)))
		}
	}
	for t, known := range want {
		if !have[t] && !r.model.Dead(t, known) {
			wrong = append(wrong, fmt.Sprintf("%s has no record\n  want %+v", t, *known))
		}
	}
	if err := table.settled(); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// comparable leaves out the parts of a record without a meaning: what is expected where there was
// no answer or in another half than the client's, and the next hop of an earlier generation.
func (r *fuzzRun) comparable(found record, known model.Record, now uint32) (is, want model.Record) {
	is, want = r.modelRecord(found), known
	is.Seen = r.model.Clock - secondsSince(now, found.LastSeen)
	if is.State&bpf.StateAnswered == 0 || is.Flags&(bpf.FlowReply|bpf.FlowSplitSource) != 0 {
		is.Expect, want.Expect = 0, 0
	}
	if is.Hop.Generation == want.Hop.Generation && is.Hop.Generation != r.model.Generation {
		is.Hop, want.Hop = model.HopKey{}, model.HopKey{}
	}
	return is, want
}

// nextHops are those of this generation.
func (r *fuzzRun) nextHops() map[model.HopKey]*model.Hop {
	hops := make(map[model.HopKey]*model.Hop)
	for i := range r.maps["nexthops"].MaxEntries() {
		if n := r.nexthopAt(i); n.Generation == r.model.Generation {
			hops[hopKeyOf(n)] = &model.Hop{
				HopKey: hopKeyOf(n), DMAC: n.Hop.Dmac, SMAC: n.Hop.Smac, Resolved: n.Hop.Flags&bpf.HopResolved != 0,
				XDP: n.Hop.Flags&bpf.HopXDP != 0, TC: n.Hop.Flags&bpf.HopTC != 0,
			}
		}
	}
	return hops
}

// compareNextHops compares the next hops with the last answers of the FIB or changes by the agent.
func (r *fuzzRun) compareNextHops() (wrong []string) {
	for key, is := range r.nextHops() {
		if want := r.model.NextHops[key]; want == nil || *is != *want {
			wrong = append(wrong, fmt.Sprintf("next hop\n  is   %+v\n  want %+v", *is, want))
		}
	}
	return wrong
}

func (r *fuzzRun) compareAffinity(now uint32) (wrong []string) {
	for k, want := range r.model.Affinity {
		var got bpf.AffinityEntry
		err := r.maps["affinity"].Lookup(bpf.AffinityKey{Service: k.Service, Addr: words(k.Client)}, &got)
		used := r.model.Clock - int(now-got.LastUsed)/fuzzSecond
		if err != nil || got.Backend != want.Backend || got.Addr != words(want.Addr.Addr()) || used != want.Used {
			wrong = append(wrong, fmt.Sprintf("affinity: %+v has %+v (used at %d), want %+v: %v", k, got, used, want, err))
		}
	}
	keys, _, err := contents(r.maps["affinity"])
	must(err)
	if len(keys) != len(r.model.Affinity) {
		wrong = append(wrong, fmt.Sprintf("affinity has %d clients, want %d", len(keys), len(r.model.Affinity)))
	}
	return wrong
}

// jiffies returns the time in the maps' unit.
func (n *fuzzNode) jiffies() (now uint32, err error) {
	_, err = n.walks["waggle_jiffies"].Run(&ebpf.RunOptions{Context: now, ContextOut: &now})
	return now, err
}

func secondsSince(now, then uint32) int { return int(now-then) / fuzzSecond }

// compareCounters checks that each packet was counted under its result.
func (r *fuzzRun) compareCounters() error {
	got, err := r.counters()
	if err != nil {
		return err
	}
	if r.model.Unsure > 0 {
		return nil
	}
	for h, counts := range got {
		want := r.model.Counts[h]
		for v := range bpf.VerdictCount {
			if counts[v] != want[v] {
				return fmt.Errorf("%s counted %d %s, want %d", bpf.HookName(h), counts[v], bpf.VerdictName(v), want[v])
			}
		}
	}
	return nil
}
