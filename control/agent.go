// SPDX-License-Identifier: Apache-2.0

// Package control keeps the datapath in step with the cluster: sources of Kubernetes objects,
// kube-proxy's change trackers, the planner, the reconciler, and the care of the node's devices.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Config is what an agent is told.
type Config struct {
	Serve ServeConfig
	Pace  Pace // zero: DefaultPace
	// Warnings are what is wrong with the configuration, by what they are about.
	Warnings map[string]error
	// Conntrack is what kube-proxy would set, with the same configuration.
	Conntrack []ConntrackParameter

	NodeName     string
	Version      string
	RunDir       string // where the status is written
	SysctlDir    string // where the kernel's parameters are written
	Cgroup       string // whose processes' sockets are served
	Loader       loader.Options
	Rules        DeviceRules
	XDP          XDPMode
	Express      ExpressMode
	NodePorts    NodePortAddresses
	ReservePorts bool
	// MasqueradeAll translates the source of all that is for a cluster IP.
	MasqueradeAll bool
	// LocalSources are the cluster's own addresses: of a client there that comes from another
	// node, the address is kept where it asks a cluster IP.
	LocalSources []netip.Prefix
	SourceName   string // for people
	ServeAs      string // service.kubernetes.io/service-proxy-name of what is for us; empty: what has no such label
}

// Agent runs the control plane of one node.
type Agent struct {
	cfg      Config
	log      *logrus.Entry
	src      source.Source
	dp       *loader.Datapath
	devices  *Devices
	proxy    *Proxy
	expirer  *Expirer
	stale    *StaleUDP
	health   *Health
	checks   *serviceHealth
	takeover *Takeover
	pods     *podNamespaces
	started  time.Time
	nodeIPs  []netip.Addr // of our Node object, the last that there were

	poked      chan struct{} // the status has changed
	status     *status.Writer
	reconciler *reconcile.Reconciler
	retired    int      // as at the last sync
	settled    bool     // the first sync is over
	judged     families // those whose forwarding was
	exhaustion exhaustion

	attached chan struct{} // there is something for lookAround to look at
	around   surroundings
	links    attachments
	warnings findings // what may keep something from working
	notices  findings // what is good to know
}

// NewAgent loads the datapath, takes over what an earlier agent left, and serves the node's
// sockets. Devices and services follow in Run.
func NewAgent(cfg Config, src source.Source, log *logrus.Entry) (*Agent, error) {
	if err := cfg.Rules.CheckDevices(); err != nil {
		return nil, err
	}
	ignored := func(device string) bool { return matches(cfg.Rules.Ignore, device) }
	if err := loader.CheckDevices(cfg.Loader.PinDir, ignored); err != nil {
		return nil, err
	}
	cfg.Loader.MasqueradeAll = cfg.MasqueradeAll
	dp, err := loader.Load(cfg.Loader)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: log, src: src, dp: dp,
		started:  time.Now(),
		status:   status.NewWriter(cfg.RunDir),
		poked:    make(chan struct{}, 1),
		attached: make(chan struct{}, 1),
		warnings: findings{level: logrus.WarnLevel},
		notices:  findings{level: logrus.InfoLevel},
	}
	if err := a.prepare(); err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	return a, nil
}

func (a *Agent) prepare() error {
	r, err := reconcile.New(a.dp, a.log)
	if err != nil {
		return err
	}
	published, err := hasFrontends(a.dp)
	if err != nil {
		return err
	}
	if a.takeover, err = newTakeover(a.dp, published, func(err error) { a.warn("connections that the kernel translates", err) }, a.log); err != nil {
		return err
	}
	a.stale = newStaleUDP(a.dp, func(err error) { a.warn("UDP sockets connected to endpoints that no longer serve", err) }, a.log)
	a.reconciler, a.retired = r, -1 // endpoints may have stopped serving while no agent ran
	a.warn("reserved ports", a.reservePorts())
	a.lookAtConntrack()
	a.warn("privileges", loader.CheckOptionalPrivileges())
	a.devices = NewDevices(a.dp, a.cfg.Rules, a.cfg.XDP, a.cfg.NodePorts, a.log)
	a.devices.express = a.cfg.Express
	a.devices.converted = func() {
		a.takeover.converted()
		a.stale.Stopped() // of these flows, too, endpoints may have stopped serving
	}
	a.pods = newPodNamespaces(a.dp, a.devices, a.log)
	a.proxy = NewProxy(a.cfg.NodeName, r, a.onNode, a.onSync, a.log)
	a.proxy.ServeAs(a.cfg.ServeAs)
	a.proxy.ServeNodePorts(PortRange{a.cfg.Loader.NodePortMin, a.cfg.Loader.NodePortMax})
	if s, ok := a.src.(source.Recorder); ok {
		a.proxy.RecordTo(s.Recorder())
	}
	a.expirer = &Expirer{dp: a.dp, log: a.log, foreign: a.takeover.counted}
	if err := r.SetLocalSources(a.cfg.LocalSources); err != nil {
		return err
	}
	if err := maps.BumpGeneration(a.dp); err != nil {
		return err
	}
	a.prepareHealth()
	if a.cfg.Cgroup == "" {
		return nil
	}
	return a.dp.AttachCgroup(a.cfg.Cgroup)
}

// Run works until ctx is done or the source fails. It leaves the datapath running.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	if err := a.serve(ctx); err != nil {
		cancel()
		return errors.Join(err, a.dp.Close())
	}
	var wg sync.WaitGroup
	hops := maps.NewNextHops(a.dp)
	watch := &NodeWatch{
		log:     a.log,
		Routed:  func() { a.warn("next hops", maps.BumpGeneration(a.dp)) },
		Changed: a.syncDevices,
		Routes:  a.devices.IsRouted,
		Moved: func(ifindex int, addr netip.Addr, mac net.HardwareAddr) {
			a.warn("neighbours", hops.SetNeighbour(ifindex, addr, mac))
		},
	}
	for _, run := range []func(context.Context){watch.Run, a.proxy.Run, a.expirer.Run, a.takeover.Run, a.stale.Run, a.pods.Run, a.reportStatus, a.lookForKubeProxy, a.keepAttached, a.lookAround} {
		wg.Go(func() { run(ctx) })
	}
	a.log.WithFields(logrus.Fields{"node": a.cfg.NodeName, "pinDir": a.cfg.Loader.PinDir,
		"source": a.cfg.SourceName}).Info("agent running")
	err := a.src.Run(ctx, healthSink{sink{a.proxy, a.takeover}, a.cfg.NodeName, a.health.node})
	cancel()
	wg.Wait()
	a.writeStatus()
	a.log.Info("agent ends; the datapath goes on")
	return errors.Join(err, a.dp.Close())
}

// onSync follows what the proxy has written.
func (a *Agent) onSync() {
	a.takeover.end(publishing)
	if stopped := a.reconciler.Retired(); stopped != a.retired {
		a.retired = stopped
		a.stale.Stopped()
	}
	if now := a.proxy.families(); now != a.judged {
		a.judged = now
		a.judgeForwarding()
	}
	if !a.settled {
		a.settled = true
		giveBackMemory()
		a.around.addChains() // which may be in the way of services
		a.look()
	}
	a.poke()
}

// syncDevices follows a change of the node's devices.
func (a *Agent) syncDevices(change nodeChange) {
	a.warn("devices", a.devices.syncChange(change))
	a.proxy.SetNodeIPs(a.devices.Primary())
	a.proxy.SetAssigned(a.devices.Assigned())
	a.pods.changed()
	a.judgeForwarding()
	if touched := a.devices.takeTouched(); len(touched) > 0 {
		a.warn("links", a.links.follow(a.dp, touched))
		a.around.add(touched)
		a.look()
	}
	a.poke()
}

// look has lookAround look soon.
func (a *Agent) look() {
	select {
	case a.attached <- struct{}{}:
	default:
	}
}

// warn remembers a trouble that does not end the agent until it is over.
func (a *Agent) warn(about string, err error) {
	var messages []string
	if err != nil {
		messages = []string{fmt.Sprintf("%s: %v", about, err)}
	}
	a.warnings.tell(a.log, about, messages)
}
