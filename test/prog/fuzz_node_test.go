// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/model"
)

// A second of the fuzzed node, in jiffies. It is long enough that none passes while a script runs,
// and so short that a day is far from the time in which 32 bits of jiffies wrap.
const (
	fuzzSecond = 10_000
	// Every step in time takes this much longer, so that no timeout ends on the jiffy.
	fuzzSlack = 50
	// So many sets that none overflows.
	fuzzSets = 512
)

// fuzzLimits are the settings that datapaths are loaded with for scripts.
var fuzzLimits = []model.Limits{
	{SNATMax: snatMin + 7},
	{SNATMax: snatMin + 10, MasqueradeAll: true, AnswerPing: true},
	{SNATMax: snatMax, AnswerPing: true},
	{SNATMax: snatMin + 3},
}

var fuzzSettings = func() (list [][]setting) {
	for i := range fuzzLimits {
		l := &fuzzLimits[i]
		l.SNATMin, l.NodePortMin, l.NodePortMax = snatMin, 30000, 32767
		l.New, l.UDP, l.TCP, l.HalfClosed, l.Closed, l.Reset = 60, 120, 86400, 3600, 60, 10
		seconds := func(n int) uint32 { return uint32(n) * fuzzSecond }
		list = append(list, []setting{
			variable("hz", uint32(fuzzSecond)),
			variable("snat_max", l.SNATMax), variable("masquerade_all", l.MasqueradeAll), variable("answer_ping", l.AnswerPing),
			variable("timeout_new", seconds(l.New)), variable("timeout_udp", seconds(l.UDP)),
			variable("timeout_tcp", seconds(l.TCP)), variable("timeout_tcp_half_closed", seconds(l.HalfClosed)),
			variable("timeout_tcp_closed", seconds(l.Closed)), variable("timeout_tcp_reset", seconds(l.Reset)),
			flowSets(fuzzSets),
		})
	}
	return list
}()

// fuzzPrograms are the programs that packets are run through, by hook.
var fuzzPrograms = map[bpf.Hook]string{
	bpf.HookXDP: "waggle_xdp", bpf.HookTCIngress: "waggle_ingress",
	bpf.HookTCPod: "waggle_pod", bpf.HookTCEgress: "waggle_egress",
}

// fuzzNode is a datapath for a series of scripts.
type fuzzNode struct {
	*datapath
	limits   model.Limits
	programs map[bpf.Hook]*ebpf.Program
	walks    map[string]*ebpf.Program
	guard    func(ask func() error) error // around each query of the twin
	memories map[string]*ebpf.Memory      // of arrays
	counted  []bpf.Counter
	reached  tally // by the last script
	out      []byte
}

func newFuzzNode(setting int) (*fuzzNode, error) {
	d, err := borrow(fuzzSettings[setting])
	if err != nil {
		return nil, err
	}
	n := &fuzzNode{
		datapath: d, limits: fuzzLimits[setting], out: make([]byte, 4096),
		programs: make(map[bpf.Hook]*ebpf.Program), walks: make(map[string]*ebpf.Program),
	}
	for hook, name := range fuzzPrograms {
		if n.programs[hook], err = d.load(name); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"waggle_expire4", "waggle_expire6", "waggle_stale4", "waggle_stale6", "waggle_jiffies"} {
		if n.walks[name], err = d.load(name); err != nil {
			return nil, err
		}
	}
	for _, dev := range allDevices {
		known := bpf.Device{Flags: dev.flags}
		if dev.addr != nil {
			known.Addr4, known.Addr6 = word(dev.addr(plan4)), words(dev.addr(plan6))
			for _, p := range []plan{plan4, plan6} {
				must(n.maps[family("node_addrs", dev.addr(p))].Put(dev.addr(p).AsSlice(), fuzzNodeAddr(dev)))
			}
		}
		must(n.maps["devices"].Put(uint32(dev.index), known))
		if dev.flags&bpf.DeviceXDPTransmits != 0 {
			must(n.maps["xdp_devices"].Put(uint32(dev.index), uint32(dev.index)))
		}
	}
	must(n.maps["devices"].Put(uint32(0), bpf.Device{Addr4: word(plan4.back), Addr6: words(plan6.back)}))
	return n, nil
}

// fuzzNodeAddr returns the flags of a device's addresses: NodePorts answer on all but the tunnel's.
func fuzzNodeAddr(d *device) uint8 {
	if d == tunnel {
		return bpf.NodeAddrLocal
	}
	return bpf.NodeAddrLocal | bpf.NodeAddrNodePorts
}

// clear removes the state of the last script.
func (n *fuzzNode) clear() error {
	var errs []error
	n.emptyFlows()
	for _, name := range []string{
		"services4", "services6", "affinity", "fragments",
		"source_ranges4", "source_ranges6", "cluster_addrs",
	} {
		errs = append(errs, emptyMap(n.maps[name]))
	}
	return errors.Join(errs...)
}

// fuzzConfig is the model's description of the namespace, which no script changes.
func fuzzConfig(limits model.Limits) *model.Config {
	c := &model.Config{
		Limits: limits, Generation: firstGeneration, Primary4: plan4.back, Primary6: plan6.back, Route: route, Leads: leads,
		Devices: make(map[int]*model.Device), NodeAddrs: make(map[netip.Addr]bool),
		Frontends: make(map[model.Frontend]*model.Policy), Backends: make(map[uint32]*model.Backend),
		ClusterAddrs: make(map[netip.Addr]bool), ClusterRanges: make(map[netip.Prefix]bool),
	}
	for _, d := range allDevices {
		known := &model.Device{
			Index: d.index, MAC: [6]byte(d.mac()),
			Express: d.flags&bpf.DeviceTCTransmits != 0, XDP: d.flags&bpf.DeviceXDPTransmits != 0,
			Egress: d.flags&bpf.DeviceEgressHook != 0, Pod: d.flags&bpf.DevicePod != 0,
			Uplink: d.flags&bpf.DeviceUplink != 0,
		}
		if d.addr != nil {
			known.Addr4, known.Addr6 = d.addr(plan4), d.addr(plan6)
			answers := fuzzNodeAddr(d)&bpf.NodeAddrNodePorts != 0
			c.NodeAddrs[known.Addr4], c.NodeAddrs[known.Addr6] = answers, answers
		}
		c.Devices[d.index] = known
	}
	return c
}

var routes = func() map[netip.Addr]model.Route {
	table := make(map[netip.Addr]model.Route)
	for _, p := range []plan{plan4, plan6} {
		known := func(d *device, mtu int, hosts ...netip.Addr) {
			for _, host := range hosts {
				table[host] = routeVia(d, host, mtu)
			}
		}
		known(front, deviceMTU, p.router, p.near)
		known(back, deviceMTU, p.far, p.far2, p.moving)
		known(back, narrowMTU, p.narrow)
		known(slow, deviceMTU, p.unready)
		known(slow, narrowMTU, p.narrowSlow)
		known(tunnel, deviceMTU, p.tunnelled)
		known(pod0, deviceMTU, p.pod, p.pod2)
		table[p.silent] = model.Route{Device: back.index}
		table[p.narrowFar] = routeVia(front, p.router, narrowMTU)
		for _, a := range []netip.Addr{p.front, p.back, p.slow, p.tunnel, p.blackholed, p.unreachable} {
			table[a] = model.Route{}
		}
	}
	return table
}()

// routeVia is a route whose neighbour is known.
func routeVia(d *device, via netip.Addr, mtu int) model.Route {
	return model.Route{Device: d.index, MTU: mtu, Via: via, Resolved: true, MAC: [6]byte(macOf(via))}
}

// route is the answer of the namespace's FIB.
func route(a netip.Addr) model.Route {
	if r, ok := routes[a]; ok {
		return r
	}
	if a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a == addr("255.255.255.255") || a.IsLinkLocalUnicast() {
		return model.Route{}
	}
	for _, d := range allDevices {
		if d.addr != nil && around(d.addr(planOf(a)), hostBits(a)).Contains(a) {
			return model.Route{Device: d.index} // an unknown neighbour
		}
	}
	return routeVia(front, planOf(a).router, deviceMTU)
}

// leads reports whether there is a route by a device. The default route is by front. Linux falls
// back to it for a device in IPv4 only.
func leads(device int, a netip.Addr) bool {
	r := route(a)
	return r.Device == device || a.Is4() && r.Device != 0 && device == front.index
}

// hostBits are those of a device's network, see addAddr.
func hostBits(a netip.Addr) int {
	if a.Is4() {
		return 8
	}
	return 64
}

// run sends one frame through one program.
func (n *fuzzNode) run(hook bpf.Hook, device int, frame []byte, deviceSum bool) (model.Result, error) {
	opts := &ebpf.RunOptions{Data: frame, DataOut: n.out, Repeat: 1}
	if hook == bpf.HookXDP {
		opts.Context = struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{
			dataEnd: uint32(len(frame)), ingress: uint32(device),
		}
	} else {
		opts.Context = skbContext{ingress: uint32(device), ifindex: uint32(device)}
		if deviceSum {
			opts.Flags = 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
		}
	}
	code, err := n.programs[hook].Run(opts)
	if err != nil {
		return model.Result{}, err
	}
	action, err := actionOf(hook, code)
	return model.Result{Action: action, Frame: opts.DataOut}, err
}

func actionOf(hook bpf.Hook, code uint32) (model.Action, error) {
	codes := map[uint32]model.Action{tcNext: model.Pass, tcShot: model.Drop, tcRedirect: model.Redirect}
	if hook == bpf.HookXDP {
		codes = xdpActions
	}
	action, ok := codes[code]
	if !ok {
		return action, fmt.Errorf("the program returned %d", code)
	}
	return action, nil
}

var xdpActions = map[uint32]model.Action{
	xdpPass: model.Pass, xdpDrop: model.Drop, xdpRedirect: model.Redirect, xdpTX: model.Back,
}

// keyOf returns the key of a tuple.
func keyOf(t model.Tuple) tuple {
	return tuple{src: t.Src, dst: t.Dst, proto: layers.IPProtocol(t.Proto), zone: t.Zone}
}

// tupleOfKey is the inverse of keyOf.
func tupleOfKey(k tuple) model.Tuple {
	return model.Tuple{Src: k.src, Dst: k.dst, Proto: uint8(k.proto), Zone: k.zone}
}

// noHop is the index in a record that has a device instead of a next hop, see bpf/return.h.
const noHop = 0xffffff

// modelRecord converts a record to the model's, without the time of its last packet.
func (n *fuzzNode) modelRecord(r record) model.Record {
	out := model.Record{
		Service: r.Service, Backend: r.Backend, Expect: r.Expect, State: r.state(),
		Src: r.src, Dst: r.dst, Flags: r.Flags,
	}
	switch upper := uint32(r.Hop >> 32); {
	case hopIndex(r.Hop) == noHop:
		out.In = int(upper)
	case upper != 0:
		out.Hop = hopKeyOf(n.nexthopAt(hopIndex(r.Hop)))
		out.Hop.Generation = upper
	}
	return out
}

func hopKeyOf(n bpf.Nexthop) model.HopKey {
	via := hostOf(n.Addr[:]...)
	if n.Family == unix.AF_INET {
		via = hostOf(n.Addr[0])
	}
	return model.HopKey{Generation: n.Generation, Device: int(n.Hop.Ifindex), Via: via, MTU: int(n.Hop.Mtu)}
}

// contents returns the content of a hash map.
func contents(m *ebpf.Map) (keys, values [][]byte, err error) {
	var last any
	for {
		key, err := m.NextKeyBytes(last)
		if key == nil || err != nil {
			return keys, values, err
		}
		last = key
		value, err := m.LookupBytes(key)
		if err != nil {
			return nil, nil, err
		}
		keys, values = append(keys, key), append(values, value)
	}
}

// older returns a time that is so many seconds earlier.
func older(then uint32, seconds int) uint32 { return then - uint32(seconds)*fuzzSecond - fuzzSlack }

// ageFlows moves all times in a table back.
func (t table) ageFlows(seconds int) {
	records, places := t.contents()
	for i, r := range records {
		r.LastSeen = older(r.LastSeen, seconds)
		t.write(places[i].record, r.encode())
	}
}

// ageMap does the same in a hash map whose values have the time at an offset.
func ageMap(m *ebpf.Map, at int, seconds int) error {
	keys, values, err := contents(m)
	if err != nil {
		return err
	}
	for i, v := range values {
		binary.NativeEndian.PutUint32(v[at:], older(binary.NativeEndian.Uint32(v[at:]), seconds))
		if err := m.Put(keys[i], v); err != nil {
			return err
		}
	}
	return nil
}

// Opened implements model.Choices.
func (n *fuzzNode) Opened(t model.Tuple) (model.Record, bool) {
	r, ok := n.lookup(keyOf(t))
	return n.modelRecord(r), ok
}

// Remembered implements model.Choices.
func (n *fuzzNode) Remembered(k model.AffinityKey) (uint32, bool) {
	var entry bpf.AffinityEntry
	err := n.maps["affinity"].Lookup(bpf.AffinityKey{Service: k.Service, Addr: words(k.Client)}, &entry)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, false
	}
	must(err)
	return entry.Backend, true
}

// counters returns the packets of each hook and verdict since its last call.
func (n *fuzzNode) counters() (map[bpf.Hook]map[bpf.Verdict]int, error) {
	count := int(bpf.HookCount) * int(bpf.VerdictCount)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	keys, now := make([]uint32, count), make([]bpf.Counter, count*cpus)
	var cursor ebpf.MapBatchCursor
	got, err := n.maps["counters"].BatchLookup(&cursor, keys, now, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	if got != count {
		return nil, fmt.Errorf("%d counters of %d: %w", got, count, unix.EIO)
	}
	if n.counted == nil {
		n.counted = make([]bpf.Counter, len(now))
	}
	result := make(map[bpf.Hook]map[bpf.Verdict]int)
	for h := range bpf.HookCount {
		result[h] = make(map[bpf.Verdict]int)
	}
	for i, c := range now {
		key := keys[i/cpus]
		hook, verdict := bpf.Hook(key)/bpf.Hook(bpf.VerdictCount), bpf.Verdict(key)%bpf.VerdictCount
		if packets := c.Packets - n.counted[i].Packets; packets > 0 {
			result[hook][verdict] += int(packets)
		}
	}
	n.counted = now
	return result, nil
}
