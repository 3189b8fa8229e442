// SPDX-License-Identifier: Apache-2.0

// Package control keeps the datapath in step with the cluster and the node. A source delivers Kubernetes
// objects, kube-proxy's change trackers find what has changed, the planner computes what the maps should
// hold, and the reconciler writes it. The Proxy is that loop. The Agent runs it with the other parts, which
// are packages below this one.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/control/canary"
	"github.com/waggle-lb/waggle/control/flows"
	"github.com/waggle-lb/waggle/control/names"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/control/takeover"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Config is the configuration of an agent.
type Config struct {
	Serve serve.Config
	Pace  Pace // zero: DefaultPace
	// Warnings are what is wrong with the configuration, by what they are about.
	Warnings map[string]error
	// Conntrack is what kube-proxy would set, with the same configuration.
	Conntrack []node.ConntrackParameter

	NodeName     string
	Version      string
	RunDir       string // where the status is written
	SysctlDir    string // where the kernel's parameters are written
	Cgroup       string // whose processes' sockets are served
	Loader       loader.Options
	Rules        node.DeviceRules
	XDP          node.XDPMode
	Express      node.ExpressMode
	NodePorts    node.NodePortAddresses
	ReservePorts bool
	// MasqueradeAll translates the source of all packets to a cluster IP.
	MasqueradeAll bool
	// LocalSources are the cluster's own addresses. A client with one of them keeps its address
	// when it asks a cluster IP from another node.
	LocalSources []netip.Prefix
	SourceName   string // for people
	// Announce is how addresses of load balancers are announced; nil: they are not.
	Announce *AnnounceConfig
	ServeAs  string // service.kubernetes.io/service-proxy-name of what is for us; empty: what has no such label
	// Names says where names of Services are answered, of which names, and who is asked for others; without addresses, nowhere.
	Names names.Options
}

// Agent runs the control plane of one node.
type Agent struct {
	cfg      Config
	log      *logrus.Entry
	src      source.Source
	dp       *loader.Datapath
	devices  *node.Devices
	proxy    *Proxy
	expirer  *flows.Expirer
	stale    *flows.StaleUDP
	health   *serve.Health
	checks   *serve.ServiceHealth
	takeover *takeover.Takeover
	pods     *node.PodNamespaces
	names    *names.Server // nil: names are not answered
	canary   *canary.Canary
	started  time.Time
	// endFetching ends what FetchAhead began, if Run did not take it over.
	endFetching context.CancelFunc
	nodeIPs     []netip.Addr // of our Node object, the last that there were

	poked      chan struct{} // the status has changed
	firstSync  chan struct{} // closed when it is over
	status     *status.Writer
	reconciler *reconcile.Reconciler
	retired    int           // as at the last sync
	settled    bool          // firstSync is closed
	judged     node.Families // those whose forwarding was
	exhaustion flows.Exhaustion

	announcing *announcing // nil: it announces nothing

	around   *node.Surroundings
	links    *node.Attachments
	warnings findings // what may keep something from working
	notices  findings // what is good to know
}

// NewAgent loads the datapath, takes over what an earlier agent left, and serves the node's
// sockets. Devices and services follow in Run.
func NewAgent(cfg Config, src source.Source, log *logrus.Entry) (*Agent, error) {
	if err := cfg.Rules.CheckDevices(); err != nil {
		return nil, err
	}
	if err := loader.CheckDevices(cfg.Loader.PinDir, cfg.Rules.Ignores); err != nil {
		return nil, err
	}
	cfg.Loader.MasqueradeAll = cfg.MasqueradeAll
	pods, err := cfg.Rules.ExpectPods()
	if err != nil {
		return nil, err
	}
	cfg.Loader.PodsLater = !pods
	fetching, end := context.WithCancel(context.Background())
	if s, ok := src.(source.Ahead); ok {
		cfg.Loader.Claimed = func() { s.FetchAhead(fetching) }
	}
	dp, err := loader.Load(cfg.Loader)
	if err != nil {
		end()
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: log, src: src, dp: dp, endFetching: end,
		started: time.Now(),
		status:  status.NewWriter(cfg.RunDir),
		poked:   make(chan struct{}, 1), firstSync: make(chan struct{}),
		links:    node.NewAttachments(dp),
		warnings: findings{level: logrus.WarnLevel},
		notices:  findings{level: logrus.InfoLevel},
	}
	if err := a.prepare(); err != nil {
		end()
		return nil, errors.Join(err, dp.Close())
	}
	return a, nil
}

func (a *Agent) prepare() error {
	var looks errgroup.Group // at what an earlier agent has left
	looks.Go(func() (err error) {
		a.reconciler, err = reconcile.New(a.dp, a.log)
		return err
	})
	looks.Go(func() (err error) {
		warn := func(err error) { a.warn("connections that the kernel translates", err) }
		a.takeover, err = takeover.New(a.dp, a.sharedPorts, warn, a.log)
		return err
	})
	looks.Go(func() error {
		a.warn("reserved ports", a.reservePorts())
		return nil
	})
	if err := looks.Wait(); err != nil {
		return err
	}
	a.retired = -1 // endpoints may have stopped serving while no agent ran
	a.stale = flows.NewStaleUDP(a.dp, func(err error) { a.warn("UDP sockets connected to endpoints that no longer serve", err) }, a.log)
	a.notices.replace(a.log, "conntrack", node.ConntrackNotices(a.cfg.Conntrack))
	a.warn("privileges", loader.CheckOptionalPrivileges())
	a.devices = node.NewDevices(a.dp, node.DeviceOptions{
		Rules: a.cfg.Rules, XDP: a.cfg.XDP, Express: a.cfg.Express, NodePorts: a.cfg.NodePorts, Converted: a.onConverted,
	}, a.log)
	a.pods = node.NewPodNamespaces(a.dp, a.devices, a.log)
	a.proxy = NewProxy(a.cfg.NodeName, a.reconciler, a.onNode, a.onSync, a.log)
	a.proxy.ServeAs(a.cfg.ServeAs)
	a.proxy.ServeNodePorts(node.PortRange{Min: a.cfg.Loader.NodePortMin, Max: a.cfg.Loader.NodePortMax})
	if s, ok := a.src.(source.Recorder); ok {
		a.proxy.RecordTo(s.Recorder())
	}
	a.expirer = flows.NewExpirer(a.dp, a.takeover.Counted, a.log)
	if err := a.reconciler.SetLocalSources(a.cfg.LocalSources); err != nil {
		return err
	}
	if err := maps.BumpGeneration(a.dp); err != nil {
		return err
	}
	a.prepareHealth()
	a.prepareNames()
	a.around = node.NewSurroundings(a.dp, node.SurroundingsOptions{
		Cgroup: a.cfg.Cgroup, Devices: a.devices, Services: a.proxy, Conntrack: a.cfg.Conntrack, Every: a.proxy.pace.Repair,
		Warn: a.reporter(&a.warnings), Note: a.reporter(&a.notices),
	}, a.log)
	a.announcing = a.newAnnouncing()
	if a.cfg.Cgroup == "" {
		return nil
	}
	return a.dp.AttachCgroup(a.cfg.Cgroup)
}

// prepareHealth has the proxy watched, and reports what is wrong with the configuration.
func (a *Agent) prepareHealth() {
	if a.cfg.Pace != (Pace{}) {
		a.proxy.pace = a.cfg.Pace
	}
	a.health = serve.NewHealth(a.proxy.pace.Repair)
	var recorder events.EventRecorder
	if r, ok := a.src.(source.Recorder); ok {
		recorder = r.Recorder()
	}
	a.checks = serve.NewServiceHealth(a.cfg.NodeName, a.cfg.NodePorts, a.health, recorder)
	a.canary = canary.New(canary.Options{
		Datapath: a.dp, Services: a.proxy, Links: a.links.All, Cgroup: a.cfg.Cgroup, Loaded: a.loaded,
		Report: func(err error) {
			a.warn("the datapath", err)
			a.poke()
		},
	}, a.log)
	a.health.Datapath(a.canary.Err)
	w := a.proxy.watch
	w.health, w.services, w.warn = a.health, a.checks, a.warn
	for about, err := range a.cfg.Warnings {
		a.warn(about, err)
	}
}

// sharedPorts looks at the addresses that the node has, and returns what recognizes those of its ports that
// flows of ours take, too.
func (a *Agent) sharedPorts() (func(netip.AddrPort) bool, error) {
	addrs, err := node.Addresses()
	if err != nil {
		return nil, err
	}
	ranges := []node.PortRange{
		{Min: a.cfg.Loader.NodePortMin, Max: a.cfg.Loader.NodePortMax},
		{Min: a.cfg.Loader.SNATMin, Max: a.cfg.Loader.SNATMax},
	}
	return func(from netip.AddrPort) bool {
		return addrs[from.Addr()] && !from.Addr().IsLoopback() &&
			slices.ContainsFunc(ranges, func(r node.PortRange) bool { return r.Holds(from.Port()) })
	}, nil
}

// Run works until ctx is done or the source fails. It leaves the datapath running.
func (a *Agent) Run(ctx context.Context) error {
	defer a.endFetching()
	ctx, cancel := context.WithCancel(ctx)
	if err := serve.Start(ctx, a.cfg.Serve, a.health, a.facts(), a.warn); err != nil {
		cancel()
		return errors.Join(err, a.dp.Close())
	}
	var wg sync.WaitGroup
	hops := maps.NewNextHops(a.dp)
	watch := &node.Watch{
		Log:     a.log,
		Routed:  func() { a.warn("next hops", maps.BumpGeneration(a.dp)) },
		Changed: a.syncDevices,
		Routes:  a.devices.IsRouted,
		NewPods: a.devices.LeadsToNewPods,
		Moved: func(ifindex int, addr netip.Addr, mac net.HardwareAddr) {
			a.warn("neighbours", hops.SetNeighbour(ifindex, addr, mac))
		},
	}
	for _, run := range []func(context.Context){watch.Run, a.proxy.Run, a.expirer.Run, a.takeover.Run, a.stale.Run, a.pods.Run, a.reportStatus, a.lookForKubeProxy, a.keepAttached, a.around.Run, a.afterStart, a.answerNames, a.announcing.run} {
		wg.Go(func() { run(ctx) })
	}
	a.log.WithFields(logrus.Fields{"node": a.cfg.NodeName, "pinDir": a.cfg.Loader.PinDir,
		"source": a.cfg.SourceName}).Info("agent running")
	err := a.src.Run(ctx, a.withNames(sink{a.proxy, a.cfg.NodeName, a.health, a.takeover, a.announcing}))
	cancel()
	wg.Wait()
	a.writeStatus()
	a.log.Info("agent stopped; the datapath keeps running")
	return errors.Join(err, a.dp.Close())
}

// onSync follows what the proxy has written.
func (a *Agent) onSync() {
	a.takeover.End(takeover.Publishing)
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
		close(a.firstSync)
		a.around.AddChains() // which may be in the way of services
	}
	a.announcing.onSync()
	a.poke()
}

// onNode follows the addresses of our Node object; nil: there is none. A Node that has
// lost all addresses keeps the last: its kubelet, or a cloud controller, is about to write others.
func (a *Agent) onNode(ours *v1.Node) {
	ips := node.IPs(ours)
	if ours != nil && len(ips) == 0 {
		ips = a.nodeIPs
	}
	a.nodeIPs = ips
	a.takeover.Begin(takeover.Attaching)
	a.devices.SetNodeIPs(ips)
	a.checks.SetNodeIPs(ips)
	a.announcing.onNode(ours)
	a.syncDevices(node.Change{})
	a.takeover.End(takeover.Attaching)
}

// onConverted looks for converted flows of the previous release whose endpoints have stopped serving.
func (a *Agent) onConverted() {
	a.takeover.Converted()
	a.stale.Stopped()
}

// syncDevices follows a change of the node's devices.
func (a *Agent) syncDevices(change node.Change) {
	changed, err := a.devices.SyncChange(change)
	a.announcing.onDevices(a.devices.Primary()) // a link may have gone, too
	if !changed {
		return
	}
	a.warn("devices", err)
	a.proxy.SetNodeIPs(a.devices.Primary())
	a.proxy.SetAssigned(a.devices.Assigned())
	a.pods.Changed()
	if change.IsLook() {
		a.judgeForwarding() // the kernel sends no event for it
	}
	if touched := a.devices.TakeTouched(); len(touched) > 0 {
		a.warn("links", a.links.Follow(touched))
		a.around.Add(touched)
	}
	a.poke()
}

// lookForKubeProxy warns of rules that kube-proxy has left: people remove them while we run.
func (a *Agent) lookForKubeProxy(ctx context.Context) {
	takeover.LookForKubeProxy(ctx, func(err error) {
		a.warn("kube-proxy", err)
		a.poke()
	})
}

// judgeForwarding warns of a node that does not forward what it serves.
func (a *Agent) judgeForwarding() {
	a.warn("forwarding", node.CheckForwarding("/proc/sys", a.proxy.families()))
}

// restAfter is when the rest of the programs is loaded though the source has not delivered everything yet: an
// API server may be away for long.
const restAfter = 5 * time.Second

// afterStart does what can wait until services are in force: it loads the rest of the programs, and returns to the
// kernel the memory that it took to load, to decode and to plan everything at once.
func (a *Agent) afterStart(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.firstSync:
	case <-time.After(restAfter):
	}
	debug.FreeOSMemory()                    // lest both take memory at the same time
	if err := a.dp.LoadRest(); err != nil { // the first device of a pod is refused for the same
		a.log.WithError(err).Debug("loading the rest of the programs")
	}
	select {
	case <-ctx.Done():
		return
	case <-a.firstSync:
		debug.FreeOSMemory()
	}
	a.canary.Run(ctx) // it loads programs, too
}

// loaded returns to the kernel what only loading needs.
func (a *Agent) loaded() {
	a.dp.Loaded()
	debug.FreeOSMemory()
}

// reservePorts takes out the ports that SNAT uses or, with --reserve-ports=false, none any more.
func (a *Agent) reservePorts() error {
	if a.cfg.ReservePorts {
		return node.ReservePorts(a.cfg.SysctlDir, a.cfg.RunDir, node.PortRange{Min: a.cfg.Loader.SNATMin, Max: a.cfg.Loader.SNATMax})
	}
	_, err := node.ReleasePorts(a.cfg.SysctlDir, a.cfg.RunDir)
	return err
}

// warn keeps a problem that does not end the agent, until the problem is over.
func (a *Agent) warn(about string, err error) {
	var messages []string
	if err != nil {
		messages = []string{fmt.Sprintf("%s: %v", about, err)}
	}
	a.warnings.replace(a.log, about, messages)
}

// reporter returns the function by which other parts report what they find on the node.
func (a *Agent) reporter(f *findings) func(about string, messages []string) {
	return func(about string, messages []string) {
		if f.replace(a.log, about, messages) {
			a.poke()
		}
	}
}
