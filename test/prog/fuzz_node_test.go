// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/model"
)

// A second of the fuzzed node, in jiffies: long enough that none passes while a script runs, and so
// short that a day is far from where 32 bits of them come round.
const (
	fuzzSecond = 10_000
	// What every step in time takes longer than it says, so that no time-out ends on the jiffy.
	fuzzSlack = 50
	// More than a script can take; of sets, so many that none overflows.
	fuzzTableSize = 512
)

// fuzzLimits are the settings that datapaths are loaded with for scripts.
var fuzzLimits = []model.Limits{
	{SNATMax: snatMin + 7, FlowsMax: fuzzTableSize},
	{SNATMax: snatMin + 10, FlowsMax: fuzzTableSize, MasqueradeAll: true, AnswerPing: true},
	{SNATMax: snatMax, FlowsMax: fuzzTableSize, AnswerPing: true},
	{SNATMax: snatMin + 3, FlowsMax: 5},
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
			{"tables", func(spec *ebpf.CollectionSpec) error {
				for _, f := range []string{"4", "6"} {
					spec.Maps["flows_new"+f].MaxEntries = fuzzTableSize
				}
				return nil
			}},
			flowsEntries(l.FlowsMax),
		})
	}
	return list
}()

// fuzzPrograms are those that packets are run through, by hook.
var fuzzPrograms = map[bpf.Hook]string{
	bpf.HookXDP: "waggle_xdp", bpf.HookTCIngress: "waggle_ingress",
	bpf.HookTCPod: "waggle_pod", bpf.HookTCEgress: "waggle_egress",
}

// fuzzNode is a datapath for one script after another.
type fuzzNode struct {
	*datapath
	limits   model.Limits
	programs map[bpf.Hook]*ebpf.Program
	walks    map[string]*ebpf.Program
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
				must(n.maps[family("node_addrs", dev.addr(p))].Put(dev.addr(p).AsSlice(), uint8(1)))
			}
		}
		must(n.maps["devices"].Put(uint32(dev.index), known))
		if dev.flags&bpf.DeviceXDP != 0 {
			must(n.maps["xdp_devices"].Put(uint32(dev.index), uint32(dev.index)))
		}
	}
	must(n.maps["devices"].Put(uint32(0), bpf.Device{Addr4: word(plan4.back), Addr6: words(plan6.back)}))
	return n, nil
}

// clear forgets the last script.
func (n *fuzzNode) clear() error {
	var errs []error
	for _, name := range []string{
		"flows4", "flows6", "services4", "services6", "affinity", "fragments",
		"source_ranges4", "source_ranges6", "cluster_addrs",
	} {
		errs = append(errs, emptyMap(n.maps[name]))
	}
	return errors.Join(append(errs, n.emptyPending())...)
}

// fuzzConfig is the model's view of the namespace, which no script changes.
func fuzzConfig(limits model.Limits) *model.Config {
	c := &model.Config{
		Limits: limits, Epoch: firstEpoch, Primary4: plan4.back, Primary6: plan6.back, Route: route,
		Devices: make(map[int]*model.Device), NodeAddrs: make(map[netip.Addr]bool),
		Frontends: make(map[model.Frontend]*model.Policy), Backends: make(map[uint32]*model.Backend),
		ClusterAddrs: make(map[netip.Addr]bool), ClusterRanges: make(map[netip.Prefix]bool),
	}
	for _, d := range allDevices {
		known := &model.Device{
			Index: d.index, MAC: [6]byte(d.mac()),
			Express: d.flags&bpf.DeviceExpress != 0, XDP: d.flags&bpf.DeviceXDP != 0, Egress: d.flags&bpf.DeviceEgress != 0,
		}
		if d.addr != nil {
			known.Addr4, known.Addr6 = d.addr(plan4), d.addr(plan6)
			c.NodeAddrs[known.Addr4], c.NodeAddrs[known.Addr6] = true, true
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
				table[host] = model.Route{Device: d.index, MTU: mtu, Resolved: true, MAC: [6]byte(macOf(host))}
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
		table[p.narrowFar] = model.Route{Device: front.index, MTU: narrowMTU, Resolved: true, MAC: [6]byte(macOf(p.router))}
		for _, a := range []netip.Addr{p.front, p.back, p.slow, p.tunnel, p.blackholed, p.unreachable} {
			table[a] = model.Route{}
		}
	}
	return table
}()

// route is what the FIB of the namespace says.
func route(a netip.Addr) model.Route {
	if r, ok := routes[a]; ok {
		return r
	}
	if a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a == addr("255.255.255.255") || a.IsLinkLocalUnicast() {
		return model.Route{}
	}
	for _, d := range allDevices {
		if d.addr != nil && around(d.addr(planOf(a)), hostBits(a)).Contains(a) {
			return model.Route{Device: d.index} // a neighbour that nobody knows
		}
	}
	return model.Route{Device: front.index, MTU: deviceMTU, Resolved: true, MAC: [6]byte(macOf(planOf(a).router))}
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

// keyBytes and the like are a map's keys and values as it holds them.
func keyBytes(t model.Tuple) []byte {
	k := tuple{src: t.Src, dst: t.Dst, egress: t.Egress}
	b := k.bytes()
	b[len(b)-4] = t.Proto
	return b
}

func tupleOfKey(b []byte) model.Tuple {
	size := 4
	if len(b) > 16 {
		size = 16
	}
	src, _ := netip.AddrFromSlice(b[:size])
	dst, _ := netip.AddrFromSlice(b[size : 2*size])
	ports := b[2*size:]
	return model.Tuple{
		Src: at(src, binary.BigEndian.Uint16(ports)), Dst: at(dst, binary.BigEndian.Uint16(ports[2:])),
		Proto: ports[4], Egress: ports[5] != 0,
	}
}

// Where the members of a record are, see docs/maps.md.
const (
	lastSeenAt = 8
	flowSize   = 48
)

func recordOf(b []byte) model.Record {
	u32 := binary.NativeEndian.Uint32
	u16 := binary.NativeEndian.Uint16
	size := (len(b) - flowSize) / 2
	src, _ := netip.AddrFromSlice(b[flowSize : flowSize+size])
	dst, _ := netip.AddrFromSlice(b[flowSize+size:])
	r := model.Record{
		Service: u32(b), Backend: u32(b[4:]), Expect: u32(b[12:]), State: u32(b[16:]),
		Src: at(src, binary.BigEndian.Uint16(b[40:])), Dst: at(dst, binary.BigEndian.Uint16(b[42:])),
		Flags: u16(b[44:]),
	}
	r.Hop = model.Hop{
		Epoch: u32(b[20:]), Device: int(u32(b[24:])), DMAC: [6]byte(b[28:34]), SMAC: [6]byte(b[34:40]),
		MTU: int(u16(b[46:])),
	}
	return r
}

// contents is all that a hash map holds.
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

// age takes time off all that a table remembers, whose time is at an offset of its values.
func age(t recordTable, at int, seconds int) error {
	keys, values, err := t.contents()
	if err != nil {
		return err
	}
	for i, v := range values {
		seen := binary.NativeEndian.Uint32(v[at:])
		binary.NativeEndian.PutUint32(v[at:], seen-uint32(seconds)*fuzzSecond-fuzzSlack)
		if err := t.replace(keys[i], v); err != nil {
			return err
		}
	}
	return nil
}

// Opened implements model.Choices.
func (n *fuzzNode) Opened(t model.Tuple) (model.Record, bool) {
	value, err := n.tables[family(pending, t.Src.Addr())].lookup(keyBytes(t))
	must(err)
	if value == nil {
		return model.Record{}, false
	}
	return recordOf(value), true
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

// counters are the packets of each hook and verdict since they were asked for last.
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
