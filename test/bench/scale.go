// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// scaleSizes are the points of the curves, in rising order.
type scaleSizes struct {
	services []uint32 // powers of two
	backends []uint32 // of one service
	flows    []uint32 // powers of two
	memory   int      // the number of services for the measurement of memory
}

func measureScale(o options) (results []Result, err error) {
	sizes := scaleSizes{services: []uint32{1 << 10, 1 << 14, 1 << 17}, backends: []uint32{1000, 100_000, 1_000_000},
		flows: []uint32{1 << 10, 1 << 16, 1 << 20, 1 << 22}, memory: 10_000}
	if o.quick {
		sizes = scaleSizes{services: []uint32{1 << 10, 1 << 12}, backends: []uint32{1000, 10_000}, flows: []uint32{1 << 10, 1 << 14}, memory: 1000}
	}
	rows, err := memoryOfMaps()
	if err != nil {
		return nil, err
	}
	printMaps(os.Stdout, rows)
	if err := writeJSON(o.out, "maps", rows); err != nil {
		return nil, err
	}
	service, err := memoryOfService(sizes.memory)
	if err != nil {
		return nil, err
	}
	curves, err := measureCurves(o, sizes)
	return append(memoryResults(rows, service), append([]Result{service}, curves...)...), err
}

// memoryResults are the maps' memory for each kind of object that users count.
func memoryResults(rows []mapMemory, service Result) (results []Result) {
	element, empty := map[string]float64{}, 0.0
	for _, r := range rows {
		element[r.Map] = r.Element
		empty += r.Empty
	}
	line := func(metric, unit string, value float64) {
		results = append(results, Result{Metric: metric, Unit: unit, Waggle: value, Runs: []float64{value}})
	}
	line("memory of all maps, empty", "MB", empty/1e6)
	line("memory of a flow, two records, IPv4", "bytes", flowMemory(element, "4"))
	line("memory of a flow, two records, IPv6", "bytes", flowMemory(element, "6"))
	line("memory of an endpoint, backend and slot", "bytes", element["backends"]+element["slots"])
	return results
}

// memoryOfService makes the control plane write so many services, and returns by how much the maps
// have grown for each: by one element or by none.
func memoryOfService(n int) (r Result, err error) {
	rig, err := newMemoryRig(n)
	if err != nil {
		return r, err
	}
	defer rig.stop()
	before, err := rig.memory()
	if err != nil {
		return r, err
	}
	if err := rig.program(programObjects(n)); err != nil {
		return r, err
	}
	after, err := rig.memory()
	if err != nil {
		return r, err
	}
	sum := 0.0
	for name := range after {
		if each := (after[name] - before[name]) / float64(n); each >= 1 {
			sum += allocated(each)
		}
	}
	return Result{Metric: "memory of a service beside its endpoints, IPv4", Unit: "bytes", Waggle: sum, Runs: []float64{sum}}, nil
}

// memory returns that of each map, in bytes.
func (r *memoryRig) memory() (map[string]float64, error) {
	sizes := map[string]float64{}
	for name, m := range r.maps {
		if name[0] == '.' { // a program's variables
			continue
		}
		size, err := memlock(m)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		sizes[name] = size
	}
	return sizes, nil
}

// scaleRig has tables with room for the last points of all curves.
type scaleRig struct {
	*hotRig
	services *maps.Services
	backends *maps.Backends
	slots    *maps.Slots
}

func measureCurves(o options, sizes scaleSizes) (results []Result, err error) {
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	results, err = measureServices(o, network, sizes)
	if err != nil {
		return nil, err
	}
	for _, n := range sizes.flows {
		point, err := pointOfFlows(o, network, n, last(sizes.flows))
		if err != nil {
			return nil, fmt.Errorf("%s flows: %w", short(n), err)
		}
		results = append(results, point)
	}
	return results, nil
}

// measureServices measures new flows for growing numbers of services and backends.
func measureServices(o options, network *topo.Network, sizes scaleSizes) (results []Result, err error) {
	endpoints := last(sizes.services) + last(sizes.backends)
	r := newRunner(o)
	room := flowRoom{flows4: r.freshFlows()}
	hot, err := newHotRig(o, network, room, probe.Room{Hash: 16, LRU: 1 << 17}, map[string]uint32{
		"services4": 2 * last(sizes.services), "backends": endpoints + 1<<17, "slots": 4 * endpoints,
	})
	if err != nil {
		return nil, err
	}
	defer hot.close()
	router := network.Nodes[1].IP4
	if err := hot.node.AddRoute(netip.PrefixFrom(endpointAddr(0), 9), router); err != nil {
		return nil, err
	}
	rig := &scaleRig{hotRig: hot, services: maps.NewServices(hot.maps)}
	if rig.backends, err = maps.NewBackends(hot.maps); err != nil {
		return nil, err
	}
	if rig.slots, err = maps.NewSlots(hot.maps); err != nil {
		return nil, err
	}
	err = hot.node.Do(func() error {
		for _, curve := range []func(scaleSizes) ([]Result, error){rig.curveOfServices, rig.curveOfBackends} {
			got, err := curve(sizes)
			if err != nil {
				return err
			}
			results = append(results, got...)
		}
		return nil
	})
	return results, err
}

// toFrontends are the packets of new flows, one to each of many services.
var toFrontends = flows{proto: unix.IPPROTO_TCP,
	dst: end{netip.MustParseAddrPort("10.96.0.0:1024"), true, true}}

// publish makes a service with new backends, which are on another node.
func (r *scaleRig) publish(id uint32, at netip.AddrPort, count uint32) error {
	ids := make([]uint32, count)
	for i := range ids {
		// no two services share an endpoint
		backend := maps.Backend{Addr: endpointAddr(r.backends.InUse()), Port: targetPort, Proto: unix.IPPROTO_TCP, Service: id, InCluster: true}
		var err error
		if ids[i], err = r.backends.Add(backend, epoch); err != nil {
			return err
		}
	}
	block, err := r.slots.Publish(ids, epoch)
	if err != nil {
		return err
	}
	frontend := maps.Frontend{Addr: at.Addr(), Port: at.Port(), Proto: unix.IPPROTO_TCP}
	return r.services.Put(frontend, maps.Service{ID: id, Kind: maps.ClusterIP, External: block, Internal: block})
}

// curveOfServices measures new flows, and packets of no flow, with growing numbers of services that
// have one endpoint each.
func (r *scaleRig) curveOfServices(sizes scaleSizes) (results []Result, err error) {
	made := uint32(0)
	stranger := r.families()[0].find("xdp not ours")
	fresh := hotCase{hook: bpf.HookXDP, flows: toFrontends, verdict: bpf.VerdictExpress, events: []bpf.Verdict{bpf.VerdictFlowOpened}, every: true}
	for i, n := range sizes.services {
		for ; made < n; made++ {
			if err := r.publish(1+made, toFrontends.dst.of(made), 1); err != nil {
				return nil, err
			}
		}
		name := fmt.Sprintf("%s services, IPv4", short(n))
		fresh.services = n
		fresh.flows.src.AddrPort = netip.AddrPortFrom(further(netip.MustParseAddr("10.64.0.0"), uint32(i)<<18), 1024) // other clients
		opened, err := r.pointOfNewFlows("xdp new flow to one of "+name, fresh)
		if err != nil {
			return nil, err
		}
		foreign := r.waggleSubject("xdp not ours, among "+name, stranger, sizes.flows[0])
		idle := r.subject("nothing", bpf.HookXDP, r.Programs["nothing_xdp"], stranger.flows, 1)
		if err := takeTurns(r.runs, []*subject{foreign, idle}); err != nil {
			return nil, err
		}
		results = append(results, opened, curvePoint(foreign, idle, nil, nil))
	}
	return results, nil
}

// pointOfNewFlows measures new flows beside the reads and the writes that they can't do without.
func (r *scaleRig) pointOfNewFlows(name string, c hotCase) (Result, error) {
	opened := r.waggleSubject(name, c, 0)
	lookups := r.limitSubject("frontend, slot and backend", r.Programs["choose4"], c, 0)
	inserts := r.limitSubject("two insertions", r.Programs["insert4"], c, 0)
	idle := r.limitSubject("nothing", r.Programs["nothing_xdp"], c, 0)
	if err := takeTurns(r.runs, []*subject{opened, lookups, inserts, idle}); err != nil {
		return Result{}, err
	}
	return curvePoint(opened, idle, nil, map[string]*subject{"bare reads": lookups, "bare insertions": inserts}), nil
}

// curveOfBackends measures new flows to a service with a growing number of endpoints.
func (r *scaleRig) curveOfBackends(sizes scaleSizes) (results []Result, err error) {
	at := netip.AddrPortFrom(serviceAddr(0), servicePort)
	fresh := r.families()[0].find("xdp new flow")
	fresh.flows.dst = end{at, false, false}
	first := last(sizes.services)
	for i, n := range sizes.backends {
		if err := r.publish(1+first+uint32(i), at, n); err != nil {
			return nil, err
		}
		opened, err := r.pointOfNewFlows(fmt.Sprintf("xdp new flow to one of %d backends, IPv4", n), fresh)
		if err != nil {
			return nil, err
		}
		results = append(results, opened)
	}
	return results, nil
}

// pointOfFlows measures packets of established flows, which have both records, in a table that is
// half full with them.
func pointOfFlows(o options, network *topo.Network, n, most uint32) (point Result, err error) {
	rig, err := newHotRig(o, network, flowRoom{flows4: n}, probe.Room{Hash: 2 * most, LRU: 16}, nil)
	if err != nil {
		return point, err
	}
	defer rig.close()
	err = rig.node.Do(func() (err error) {
		point, err = rig.pointOfFlows(n)
		return err
	})
	return point, err
}

func (r *hotRig) pointOfFlows(n uint32) (Result, error) {
	family := r.families()[0]
	err := placeAll(r.maps, func() error {
		return errors.Join(r.fill(family.express[0], 0, n), r.fill(family.express[1], 0, n))
	})
	if err := errors.Join(err, r.fillBare(family.express[0], n), r.fillBare(family.express[1], n)); err != nil {
		return Result{}, err
	}
	established := family.find("xdp established")
	opened := r.waggleSubject(fmt.Sprintf("xdp established, IPv4, one of %s flows", short(n)), established, n)
	bare := r.limitSubject("bare lookup", r.Programs["lookup4"], established, n)
	idle := r.subject("nothing", bpf.HookXDP, r.Programs["nothing_xdp"], established.flows, 1)
	if err := takeTurns(r.runs, []*subject{opened, bare, idle}); err != nil {
		return Result{}, err
	}
	return curvePoint(opened, idle, bare, nil), nil
}

// curvePoint is a line of the table, in nanoseconds beyond those of the harness.
func curvePoint(waggle, idle, limit *subject, peers map[string]*subject) Result {
	r := Result{Metric: waggle.name, Unit: "ns", Waggle: waggle.beyond(idle), Runs: waggle.less(idle), Peers: map[string]float64{}}
	if limit != nil {
		r.Limit = limit.beyond(idle)
	}
	for name, s := range peers {
		r.Peers[name] = s.beyond(idle)
	}
	return r
}
