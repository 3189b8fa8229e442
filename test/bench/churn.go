// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/bench/memapi"
	"github.com/waggle-lb/waggle/test/topo"
)

const (
	churnEvery = 20 * time.Millisecond // one endpoint changes: 50 a second
	// The services, by their numbers: those that first packets are sent to, TCP from 0 on and UDP,
	// which do not change; those whose endpoint changes and is waited for; and all others, which
	// change meanwhile.
	churnUDP              = 256
	churnFollowed         = 512
	churnOthers           = 576
	churnTurns            = 3    // at most: kube-proxy takes long until it is idle
	churnIptablesServices = 1000 // 10,000 take it more than six minutes
)

// churnPlace is a node with a client and two servers, and a proxy with objects of its own. They
// change only while this place is measured, because the work of the other proxies would disturb.
type churnPlace struct {
	name     string
	client   *socketClient
	tcp, udp []netip.AddrPort // what the client sends first packets to
	events   int              // in each turn, both with other changes and without
	measured map[string]*subject
	asked    float64 // sockets, and those without an answer
	lost     float64
	*churned
}

// churned are the objects of a place, with their changes.
type churned struct {
	store    *memapi.Store
	services int
	first    int // of those whose changes are not waited for
	node     *topo.Node
	servers  [2]netip.Addr

	followed int // changes waited for so far
	changed  int // other changes so far
}

// Metrics of a place.
const (
	firstQuiet  = "no changes"
	firstChurn  = "50 endpoints/s change"
	eventQuiet  = "event to first packet, no other changes"
	eventChurn  = "event to first packet, 50 endpoints/s change"
	percentile5 = "p50"
	percentile9 = "p99"
)

func measureChurn(o options) (results []Result, err error) {
	services, window, events := 10_000, 3*time.Second, 100
	if o.quick {
		services, window, events = 1000, time.Second/2, 20
	}
	nodes := 4
	if o.before != "" {
		nodes++
	}
	f, err := newFabric(o, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	places, err := f.churnPlaces(services, events)
	if err != nil {
		return nil, err
	}
	for turn := range min(o.runs, churnTurns) + 1 {
		for _, p := range places {
			if turn == 1 {
				p.measured = map[string]*subject{} // the first time is discarded
			}
			if err := p.measure(window); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return churnResults(places, services), nil
}

// churnPlaces prepares a node for each proxy, and one without.
func (f *fabric) churnPlaces(services, events int) (places []*churnPlace, err error) {
	f.own = map[*topo.Node]*memapi.Store{}
	names := []string{"waggle"}
	if f.before != "" {
		names = append(names, "before")
	}
	if f.havePeers() {
		names = append(names, "nftables")
		if services <= churnIptablesServices {
			names = append(names, "iptables")
		}
	}
	for i, name := range append(names, "direct") {
		p, err := f.churnPlace(f.Nodes[i], name, services)
		if err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	for _, p := range places {
		if err := f.startChurned(p, events); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	beside := *places[0] // the same changes, but its packets go directly to a server
	beside.name, beside.events = "direct beside waggle", 0
	beside.tcp = []netip.AddrPort{netip.AddrPortFrom(beside.servers[0], targetPort)}
	beside.udp, beside.measured = beside.tcp, map[string]*subject{}
	return append(places, &beside), nil
}

func (f *fabric) churnPlace(node *topo.Node, name string, services int) (*churnPlace, error) {
	p := &churnPlace{name: name, measured: map[string]*subject{},
		churned: &churned{node: node, store: memapi.NewStore(), services: services, first: churnOthers}}
	f.own[node] = p.store
	for _, n := range f.Nodes {
		p.store.Put(apiserver.NodeOf(n, ""))
	}
	for i := range p.servers {
		pod, err := node.AddPod(fmt.Sprintf("server-%s-%d", node.Name, i), topo.PodOptions{})
		if err != nil {
			return nil, err
		}
		p.servers[i] = pod.IP4
		stop, err := serveByte(pod, byte(i))
		if err != nil {
			return nil, err
		}
		f.close = append(f.close, stop)
	}
	pod, err := node.AddPod("client-"+node.Name, topo.PodOptions{})
	if err != nil {
		return nil, err
	}
	if p.client, err = startSocketClient(pod); err != nil {
		return nil, err
	}
	if name == "direct" {
		p.tcp = []netip.AddrPort{netip.AddrPortFrom(p.servers[0], targetPort)}
		p.udp = p.tcp
		return p, nil
	}
	for i := range churnOthers {
		protocol := corev1.ProtocolTCP
		to := netip.AddrPortFrom(serviceAddr(i), servicePort)
		switch {
		case i >= churnFollowed:
		case i >= churnUDP:
			protocol = corev1.ProtocolUDP
			p.udp = append(p.udp, to)
		default:
			p.tcp = append(p.tcp, to)
		}
		p.store.Put(serviceObject(i, protocol), sliceObject(i, protocol, node.Name, p.servers[0]))
	}
	p.store.Put(fillers(churnOthers, services-churnOthers, programEndpoints, corev1.ProtocolTCP)...)
	return p, nil
}

// startChurned starts the proxy of a place, and waits until it serves.
func (f *fabric) startChurned(p *churnPlace, events int) error {
	switch p.name {
	case "direct":
		return nil
	case "waggle", "before":
		p.events = events
		build := "" // the measured one
		if p.name == "before" {
			build = f.before
		}
		agent, err := f.startBuild(build, p.node, "--xdp=off")
		if err != nil {
			return err
		}
		return agent.Await("all services", func(s *status.Status) bool { return s.Proxy.Services == p.services })
	}
	p.events = 1 // each takes seconds
	k, err := f.startKubeProxy(p.node, p.name)
	if err != nil {
		return err
	}
	return k.firstSync()
}

// measure takes a turn: first packets and events while nothing else changes, and while other
// services do. The proxy is idle at its end.
func (p *churnPlace) measure(window time.Duration) error {
	if err := p.measureFirst(window, firstQuiet); err != nil {
		return err
	}
	if err := p.measureEvents(eventQuiet); err != nil {
		return err
	}
	if p.name == "direct" {
		return nil
	}
	stop := p.churn(churnEvery)
	err := p.measureEvents(eventChurn) // after this the proxy is not idle for a while
	if err == nil {
		err = p.measureFirst(window, firstChurn)
	}
	stop()
	if err != nil {
		return err
	}
	_, err = p.follow() // once this change is in force, all earlier ones are
	return err
}

func (p *churnPlace) record(metric string, values ...float64) {
	if p.measured[metric] == nil {
		p.measured[metric] = &subject{name: metric}
	}
	p.measured[metric].runs = append(p.measured[metric].runs, values...)
}

func (p *churnPlace) measureFirst(window time.Duration, while string) error {
	for _, kind := range []struct {
		what string
		to   []netip.AddrPort
	}{{doFirstTCP, p.tcp}, {doFirstUDP, p.udp}} {
		ns, err := p.client.send(socketRequest{What: kind.what, Among: kind.to, For: window})
		if err != nil {
			return err
		}
		p.record(kind.what+percentile5+while, ns[0]/1e3)
		p.record(kind.what+percentile9+while, ns[1]/1e3)
		p.asked += ns[2]
		p.lost += ns[3]
	}
	return nil
}

func (p *churnPlace) measureEvents(metric string) error {
	for range p.events {
		ms, err := p.follow()
		if err != nil {
			return err
		}
		p.record(metric, ms)
	}
	return nil
}

// follow changes the endpoint of a service. It returns the milliseconds until the new endpoint
// answered a new connection of the client, which connects repeatedly.
func (p *churnPlace) follow() (float64, error) {
	number := churnFollowed + p.followed%(churnOthers-churnFollowed)
	server := (p.followed/(churnOthers-churnFollowed) + 1) % 2 // the other server, in each round
	p.followed++
	type reply struct {
		at  []float64
		err error
	}
	done := make(chan reply, 1)
	go func() {
		at, err := p.client.send(socketRequest{What: doFollow, To: netip.AddrPortFrom(serviceAddr(number), servicePort), Want: byte(server)})
		done <- reply{at, err}
	}()
	started := monotonic()
	p.store.Put(sliceObject(number, corev1.ProtocolTCP, p.node.Name, p.servers[server]))
	r := <-done
	if r.err != nil {
		return 0, r.err
	}
	return (r.at[0] - started) / 1e6, nil
}

// churn changes an endpoint of one other service after the other until stop is called.
func (c *churned) churn(every time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticks.C:
				c.changeOne()
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// churnStride is the distance of the service that changes next.
const churnStride = 7919

func (c *churned) changeOne() {
	number := c.first + c.changed*churnStride%(c.services-c.first)
	c.changed++
	endpoints := fillerEndpoints(number, programEndpoints)
	endpoints[0] = offset4(10, 250, 0, c.changed)
	c.store.Put(sliceObject(number, corev1.ProtocolTCP, "elsewhere", endpoints...))
}

// churnResults are medians over the turns. A turn has few events, so for these they are quantiles
// of all.
func churnResults(places []*churnPlace, services int) (results []Result) {
	waggle, direct := places[0], places[len(places)-2]
	line := func(metric, unit string, limit float64, value func(*churnPlace) (median float64, runs []float64)) {
		r := Result{Metric: fmt.Sprintf("%s, among %d services", metric, services), Unit: unit, Limit: limit, Peers: map[string]float64{}}
		r.Waggle, r.Runs = value(waggle)
		for _, p := range places[1:] {
			if p != direct {
				if v, _ := value(p); v > 0 {
					r.Peers[p.name] = v
				}
			}
		}
		results = append(results, r)
	}
	for _, kind := range []struct{ what, name string }{{doFirstTCP, "TCP, connect to first byte"}, {doFirstUDP, "UDP, first datagram to answer"}} {
		for _, percentile := range []string{percentile5, percentile9} {
			for _, while := range []string{firstQuiet, firstChurn} {
				limit := direct.measured[kind.what+percentile+firstQuiet].median()
				line(kind.name+" "+percentile+", "+while, "us", limit, func(p *churnPlace) (float64, []float64) {
					s := p.measured[kind.what+percentile+while]
					return s.median(), s.runs
				})
			}
		}
	}
	line("not answered within a second, of all of these", "ppm", 0, func(p *churnPlace) (float64, []float64) {
		share := 1e6 * p.lost / p.asked
		return share, []float64{share}
	})
	for _, metric := range []string{eventQuiet, eventChurn} {
		for _, q := range []float64{0.5, 0.99} {
			limit := float64(control.DefaultPace.MinSync.Microseconds()) / 1000
			line(metric+", p"+strconv.Itoa(int(100*q)), "ms", limit, func(p *churnPlace) (float64, []float64) {
				s := p.measured[metric]
				if s == nil {
					return 0, nil
				}
				return quantile(s.runs, q), s.runs
			})
		}
	}
	return results
}
