// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// forwarder is a node that live packets are injected into, with the way on which they leave it.
type forwarder struct {
	name      string
	node      *topo.Node
	flows     flows
	program   *ebpf.Program // the XDP program that forwards the packets
	ifindex   uint32
	maps      provider // waggle's
	filler    *filler  // of its table
	netfilter bool
}

// forwardRig injects packets and counts those that arrive beyond the nodes.
type forwardRig struct {
	*fabric
	probe   *ebpf.Collection
	to      *topo.Node // the backends'
	packets uint32
	fresh   uint32
}

const (
	forwardEndpoints = 16
	forwardNodePort  = 30080
)

func measureForward(o options) (results []Result, err error) {
	services := []int{1, 1000, 10000}
	flowCounts := []uint32{1 << 10, 1 << 16}
	rig := &forwardRig{packets: 200_000}
	if o.quick {
		services, flowCounts, rig.packets = []int{1, 100}, []uint32{1 << 10}, 50_000
	}
	if rig.fabric, err = newFabric(o, 6); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	if rig.probe, err = probe.Load(nil, probe.Room{Hash: 16, LRU: 16}); err != nil {
		return nil, err
	}
	rig.close = append(rig.close, func() error { rig.probe.Close(); return nil })
	forwarders, err := rig.build()
	if err != nil {
		return nil, err
	}
	for i, count := range services {
		if i > 0 {
			rig.fill(services[i-1], count-services[i-1], 1, corev1.ProtocolUDP)
		}
		if err := rig.awaitSynced(forwarders, count); err != nil {
			return nil, err
		}
		for _, size := range flowCounts {
			got, err := rig.measure(forwarders, fmt.Sprintf("%s flows, %d services", short(size), count), size, false)
			if err != nil {
				return nil, err
			}
			results = append(results, got...)
		}
		got, err := rig.measure(forwarders, fmt.Sprintf("new flows, %d services", count), 0, true)
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
	}
	return results, nil
}

// build starts a proxy of each kind.
func (r *forwardRig) build() ([]*forwarder, error) {
	r.to = r.Nodes[len(r.Nodes)-1]
	service, backends := serviceObject(0, corev1.ProtocolUDP), []netip.Addr{}
	service.Spec.Type, service.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, forwardNodePort
	service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	for i := range uint32(forwardEndpoints) {
		backends = append(backends, further(r.to.PodCIDR4.Addr(), 2+i))
	}
	r.store.Put(service, sliceObject(0, corev1.ProtocolUDP, r.to.Name, backends...))

	var all []*forwarder
	for i, name := range []string{"waggle xdp", "waggle tc", "routing", "nftables", "iptables"} {
		if i > 2 && !r.havePeers() {
			break
		}
		f, err := r.prepare(name, r.Nodes[i], backends[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, f)
	}
	return all, nil
}

func (r *forwardRig) prepare(name string, node *topo.Node, backend netip.Addr) (*forwarder, error) {
	at := netip.AddrPortFrom
	client := netip.MustParseAddr("10.100.0.0")
	f := &forwarder{name: name, node: node, program: r.probe.Programs["nothing_xdp"]}
	f.flows = flows{proto: unix.IPPROTO_UDP, flags: bpf.FlowExpress,
		src: end{at(client, 1024), true, true}, dst: end{at(node.IP4, forwardNodePort), false, false},
		toSrc: end{at(node.IP4, 49152), false, true}, toDst: end{at(backend, targetPort), true, false}}
	device, err := node.Link("eth0")
	if err != nil {
		return nil, err
	}
	f.ifindex = uint32(device.Attrs().Index)
	if err := errors.Join(fixNeighbour(node, r.to), node.AddRoute(netip.PrefixFrom(client, 9), r.Laptop.IP4),
		node.AddRoute(netip.PrefixFrom(endpointAddr(0), 9), r.to.IP4), r.catch(node)); err != nil {
		return nil, err
	}
	switch name {
	case "routing":
		f.flows.dst = end{at(backend, targetPort), false, false}
	case "nftables", "iptables":
		f.netfilter = true
		// A NIC would have verified the checksums, and reported it.
		if err := node.Sysctl("net.netfilter.nf_conntrack_checksum", "0"); err != nil {
			return nil, err
		}
		_, err = r.startKubeProxy(node, name)
	default:
		mode := map[string]string{"waggle xdp": "--xdp=always", "waggle tc": "--xdp=off"}[name]
		err = r.attachWaggle(f, mode)
	}
	return f, err
}

func (r *forwardRig) attachWaggle(f *forwarder, mode string) error {
	agent, err := r.startWaggle(f.node, mode)
	if err != nil {
		return err
	}
	f.maps = provider{}
	for _, name := range append(flowMaps(), "counters") {
		if f.maps[name], err = ebpf.LoadPinnedMap(filepath.Join(agent.PinDir, "maps", name), nil); err != nil {
			return err
		}
		r.close = append(r.close, f.maps[name].Close)
	}
	if err := r.attachFiller(f); err != nil {
		return err
	}
	if mode == "--xdp=always" {
		f.program, err = ebpf.LoadPinnedProgram(filepath.Join(agent.PinDir, "programs", "waggle_xdp"), nil)
		if err == nil {
			r.close = append(r.close, f.program.Close)
		}
	}
	return err
}

// attachFiller prepares the program that makes records of established flows.
func (r *forwardRig) attachFiller(f *forwarder) error {
	shared := provider{}
	for _, name := range flowMaps() {
		shared[name] = f.maps[name]
	}
	programs, err := probe.Load(shared, probe.Room{Hash: 16, LRU: 16})
	if err != nil {
		return err
	}
	r.close = append(r.close, func() error { programs.Close(); return nil })
	f.filler = &filler{runner: newRunner(r.options)}
	f.filler.Collection, f.filler.from, f.filler.to = programs, []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	return nil
}

// catch counts and drops what a node sends to the backends, at the other end of its cable.
func (r *forwardRig) catch(node *topo.Node) error {
	want := probe.Target{To: bpf.Tuple{Dport: netPort(targetPort)}}
	if err := r.probe.Variables["target"].Set(&want); err != nil {
		return err
	}
	port, err := r.Link.Link(node.BridgePort())
	if err != nil {
		return err
	}
	return r.Link.Do(func() error {
		attached, err := link.AttachXDP(link.XDPOptions{Program: r.probe.Programs["deliver"], Interface: port.Attrs().Index, Flags: link.XDPDriverMode})
		if err == nil {
			r.close = append(r.close, attached.Close)
		}
		return err
	})
}

func (r *forwardRig) delivered() (sum uint64, err error) {
	var tallies []struct{ Packets uint64 }
	if err := r.probe.Maps["delivered"].Lookup(uint32(0), &tallies); err != nil {
		return 0, err
	}
	for _, t := range tallies {
		sum += t.Packets
	}
	return sum, nil
}

// awaitSynced waits until all proxies serve the last of so many services.
func (r *forwardRig) awaitSynced(all []*forwarder, services int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for _, f := range all {
		probe := *f // all of them forward packets from outside to the cluster IP of the last service
		if f.name != "routing" {
			probe.flows.dst = end{netip.AddrPortFrom(serviceAddr(services-1), servicePort), false, false}
		}
		err := await(ctx, f.name+" to have synced", 100*time.Millisecond, func() (bool, error) {
			// each time from another client: the clients from before there were rules have
			// connections now
			ran, arrived, _, err := r.inject(&probe, r.freshDrive(100), 64)
			if err == nil && arrived < uint64(ran) {
				err = fmt.Errorf("%d of %d packets arrived", arrived, ran)
			}
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// freshDrive makes packets of flows that never existed.
func (r *forwardRig) freshDrive(packets uint32) probe.Drive {
	d := probe.Drive{Mask: 1<<26 - 1, Stride: 1, Next: r.fresh}
	r.fresh += 2 * packets
	return d
}

// inject makes packets enter a node as if its device had received them. It returns how many were
// made, how many arrived, and the time for each.
func (r *forwardRig) inject(f *forwarder, choice probe.Drive, packets uint32) (ran uint32, arrived uint64, each time.Duration, err error) {
	mac, err := f.node.MAC("eth0")
	if err != nil {
		return 0, 0, 0, err
	}
	frame, err := f.flows.frame([]byte{2, 0, 0, 0, 0, 1}, mac)
	if err != nil {
		return 0, 0, 0, err
	}
	d := f.flows.drive(frame, 1)
	d.Mask, d.Next = choice.Mask, choice.Next
	if choice.Stride != 0 {
		d.Stride = choice.Stride
	}
	err = f.node.Do(func() error {
		if err := r.probe.Maps["measured_xdp"].Put(uint32(0), f.program); err != nil {
			return err
		}
		if err := r.probe.Variables["driven"].Set(&d); err != nil {
			return err
		}
		before, err := r.delivered()
		if err != nil {
			return err
		}
		if each, err = runLive(r.probe.Programs["drive_xdp"], frame, f.ifindex, packets); err != nil {
			return err
		}
		if arrived, err = r.settled(before); err != nil {
			return err
		}
		var now probe.Drive
		err = r.probe.Variables["driven"].Get(&now)
		ran = now.Next - d.Next
		return err
	})
	return ran, arrived, each, err
}

// settled waits until nothing more arrives.
func (r *forwardRig) settled(before uint64) (uint64, error) {
	last := uint64(0)
	for {
		now, err := r.delivered()
		if err != nil || now == last {
			return now - before, err
		}
		last = now
		time.Sleep(2 * time.Millisecond)
	}
}

// measure makes all forwarders take turns. If fresh is set, each packet belongs to a new flow.
func (r *forwardRig) measure(all []*forwarder, name string, size uint32, fresh bool) ([]Result, error) {
	var subjects []*subject
	for _, f := range all {
		subjects = append(subjects, &subject{name: f.name + ", " + name, measure: func() (float64, error) { return r.rate(f, size, fresh) }})
	}
	bare := &forwarder{name: "limit", node: all[2].node, flows: all[0].flows, program: r.probe.Programs["rewrite_xdp4"], ifindex: all[2].ifindex}
	limit := &subject{name: "limit", measure: func() (float64, error) { return r.rate(bare, max(size, 1), false) }}
	generator := *bare
	generator.program = r.probe.Programs["drop_xdp"]
	idle := &subject{name: "generator", measure: func() (float64, error) {
		var rates []float64
		for range r.packets / burst {
			_, _, each, err := r.inject(&generator, probe.Drive{Mask: 0}, burst)
			if err != nil {
				return 0, err
			}
			rates = append(rates, 1/each.Seconds()/1000)
		}
		return quantile(rates, 0.75), nil
	}}
	if err := r.setTarget(all[0]); err != nil {
		return nil, err
	}
	if err := takeTurns(r.runs, append(subjects, limit, idle)); err != nil {
		return nil, err
	}
	peers := map[string]float64{"generator alone": idle.median()}
	for _, s := range subjects[2:] {
		peers[s.name[:len(s.name)-len(", "+name)]] = s.median()
	}
	var results []Result
	for _, s := range subjects[:2] {
		results = append(results, Result{Metric: "forwarded by " + s.name, Unit: "kpps", Waggle: s.median(), Limit: limit.median(),
			Peers: peers, Higher: true, Runs: s.runs})
	}
	return results, nil
}

// setTarget sets the rewrite of the limit.
func (r *forwardRig) setTarget(f *forwarder) error {
	mac, err := r.to.MAC("eth0")
	if err != nil {
		return err
	}
	target := probe.Target{To: f.flows.target()}
	copy(target.Hop.Dmac[:], mac)
	return r.probe.Variables["target"].Set(&target)
}

// rate returns how many thousand packets a second arrive.
func (r *forwardRig) rate(f *forwarder, size uint32, fresh bool) (float64, error) {
	choice, packets := probe.Drive{Mask: size - 1}, r.packets
	if fresh {
		packets = min(packets, 50_000) // netfilter has room for as many connections
		choice = r.freshDrive(packets)
	}
	if f.netfilter && fresh {
		if out, err := f.node.Command("conntrack", "-F").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("conntrack -F: %w: %s", err, out)
		}
	}
	if f.maps != nil && !fresh {
		return r.establishedRate(f, choice, packets, size)
	}
	if f.maps != nil { // established flows have all source ports of some backends
		if err := empty(f.maps["flows4"]); err != nil {
			return 0, err
		}
	}
	return r.bestBursts(f, choice, packets)
}

// establishedRate is the rate for flows whose records exist before their packets.
func (r *forwardRig) establishedRate(f *forwarder, choice probe.Drive, packets, size uint32) (float64, error) {
	reply := f.flows.mirror(bpf.ZoneOutside)
	reply.flags = f.flows.flags | bpf.FlowReply
	if err := errors.Join(f.filler.fill(f.flows, 0, size), f.filler.fill(reply, 0, size)); err != nil {
		return 0, err
	}
	// a first packet for each flow, so that it learns its next hop
	if _, _, _, err := r.inject(f, choice, size); err != nil {
		return 0, err
	}
	before, err := counted(f.maps)
	if err != nil {
		return 0, err
	}
	rate, err := r.bestBursts(f, choice, packets)
	if err != nil {
		return 0, err
	}
	after, err := counted(f.maps)
	if err != nil {
		return 0, err
	}
	for _, hook := range []bpf.Hook{bpf.HookXDP, bpf.HookTCIngress} {
		if opened := after[hook][bpf.VerdictFlowOpened] - before[hook][bpf.VerdictFlowOpened]; opened > 0 {
			return 0, fmt.Errorf("%d flows were opened by packets of established ones", opened)
		}
	}
	return rate, nil
}

// burst is the number of packets in a burst. It is so short that few bursts are preempted.
const burst = 16384

// bestBursts injects in bursts, and returns the rate that a quarter of them exceeds: a burst that
// was preempted measures the machine, not the path.
func (r *forwardRig) bestBursts(f *forwarder, choice probe.Drive, packets uint32) (float64, error) {
	var rates []float64
	for ; packets >= burst; packets -= burst {
		ran, arrived, each, err := r.inject(f, choice, burst)
		if err != nil {
			return 0, err
		}
		if arrived < uint64(ran)/2 {
			return 0, fmt.Errorf("of %d packets only %d arrived", ran, arrived)
		}
		choice.Next += ran
		rates = append(rates, float64(arrived)/float64(ran)/each.Seconds()/1000)
	}
	return quantile(rates, 0.75), nil
}
