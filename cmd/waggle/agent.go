// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/loader"
)

// agentFlags are the flags of `waggle agent`, as they were given.
type agentFlags struct {
	configFlags

	from                               sourceFlags
	nodeName, cgroup                   string
	devices, podDevices, ignoreDevices []string
	xdp, express, socketLB             string
	nodePortAddresses, mapSizes        []string
	nodePortRange, snatPorts           string
	reservePorts, answerPing           bool
	logLevel, logFormat                string
}

func newAgent(g *globals) *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the load balancer of this node",
		Long: "Run the load balancer of this node: load the datapath, attach it, and keep it in step with\n" +
			"Services and Pods. The datapath keeps running when the agent ends; `waggle cleanup` removes it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.readFile(cmd.Flags()); err != nil {
				return err
			}
			return runAgent(g, &f)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *agentFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	f.configFlags.add(fs)
	f.from.add(fs)
	fs.StringVar(&f.nodeName, "node-name", "", "name of this node's Node object (default: the host name)")
	fs.StringVar(&f.cgroup, "cgroup", "", "cgroup2 directory: waggle serves the sockets of its processes (default: the root; \"none\" for no socket hooks)")
	fs.StringSliceVar(&f.devices, "devices", nil, "patterns of the external devices (default: devices that have addresses or lead to networks)")
	fs.StringSliceVar(&f.podDevices, "pod-devices", nil, "patterns of the host sides of pods' devices (default: veth devices that lead to another network namespace)")
	fs.StringSliceVar(&f.ignoreDevices, "ignore-devices", nil, "patterns of devices to leave alone; takes precedence over --devices and --pod-devices")
	fs.StringVar(&f.xdp, "xdp", "auto", "XDP on external devices: auto, off, or always (on veth devices, too: their peers must run XDP and fill in checksums)")
	fs.StringVar(&f.socketLB, "socket-lb", socketLBAll, "sockets that are connected to endpoints directly: all, or host (the node's own processes; pods' packets are translated)")
	fs.StringVar(&f.express, "express", "auto", "send flows to other nodes past the node's stack and netfilter: auto (if a device can transmit), or off")
	fs.StringSliceVar(&f.nodePortAddresses, "nodeport-addresses", nil, "addresses of the node that NodePorts answer on: primary, all, or CIDRs (default: primary)")
	fs.StringVar(&f.nodePortRange, "nodeport-range", "30000-32767", "range of NodePorts")
	fs.StringVar(&f.snatPorts, "snat-ports", defaultSNATPorts, "source ports of translated flows (default where NodePorts overlap: "+otherSNATPorts+")")
	fs.BoolVar(&f.reservePorts, "reserve-ports", true, "keep the kernel from using --snat-ports as ephemeral ports (ip_local_reserved_ports)")
	fs.BoolVar(&f.answerPing, "answer-ping", false, "reply to pings of cluster IPs, instead of refusing them")
	fs.StringSliceVar(&f.mapSizes, "map-size", nil, "sizes of new maps, as name=elements, e.g. flows4=1048576; an existing map keeps its size until `waggle cleanup`")
	fs.Float64Var(&f.from.brake, "deletion-brake", 0.5, "with --manifests: keep Services in force if more than this fraction of them are gone at once, until their files are back or you run `waggle release`; 1 for no brake")
	fs.StringVar(&f.logLevel, "log-level", "info", "panic, fatal, error, warn, info, debug or trace")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
}

// The values of --socket-lb.
const (
	socketLBAll  = "all"
	socketLBHost = "host"
)

// gcPercent is the garbage collector's GOGC: an agent holds much memory and allocates little.
const gcPercent = 50

func runAgent(g *globals, f *agentFlags) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	cfg, err := f.config(g, log)
	if err != nil {
		return err
	}
	src, err := f.from.source(g, cfg, log)
	if err != nil {
		return err
	}
	if cfg.Announce, err = f.from.announce(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	agent, err := control.NewAgent(cfg, src, log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return agent.Run(ctx)
}

func (f *agentFlags) logger() (*logrus.Entry, error) {
	logger := logrus.New()
	level, err := logrus.ParseLevel(f.logLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level %s: one of panic, fatal, error, warn, info, debug, trace", f.logLevel)
	}
	logger.SetLevel(level)
	switch f.logFormat {
	case "text":
	case "json":
		logger.SetFormatter(&logrus.JSONFormatter{})
	default:
		return nil, fmt.Errorf("--log-format %s: one of text, json", f.logFormat)
	}
	log := logrus.NewEntry(logger)
	redirectKlog(log)
	return log, nil
}

func (f *agentFlags) config(g *globals, log *logrus.Entry) (control.Config, error) {
	cfg := control.Config{
		NodeName:     f.nodeName,
		Version:      version,
		RunDir:       g.runDir,
		SysctlDir:    g.sysctlDir,
		XDP:          node.XDPMode(f.xdp),
		Express:      node.ExpressMode(f.express),
		Rules:        node.DeviceRules{External: f.devices, Pods: f.podDevices, Ignore: f.ignoreDevices},
		ReservePorts: f.reservePorts,
		SourceName:   f.from.name(),
		ServeAs:      f.from.serviceProxyName,
		Loader:       loader.Options{PinDir: g.pinDir, AnswerPing: f.answerPing, SocketLBHost: f.socketLB == socketLBHost, Log: log},
	}
	var err error
	if cfg.NodeName == "" {
		if cfg.NodeName, err = os.Hostname(); err != nil {
			return cfg, fmt.Errorf("--node-name is not given and the host has no name: %w", err)
		}
	}
	// The kubelet, which names the Node object, does the same.
	cfg.NodeName = strings.ToLower(strings.TrimSpace(cfg.NodeName))
	if err := f.checkWays(); err != nil {
		return cfg, err
	}
	if f.socketLB != socketLBAll && f.socketLB != socketLBHost {
		return cfg, fmt.Errorf("--socket-lb %s: one of all, host", f.socketLB)
	}
	if cfg.NodePorts, err = node.ParseNodePortAddresses(f.nodePortAddresses); err != nil {
		return cfg, err
	}
	if cfg.Cgroup, err = f.cgroupPath(); err != nil {
		return cfg, err
	}
	if cfg.Names, err = f.from.names.options(f.from.manifests != ""); err != nil {
		return cfg, err
	}
	if err := f.apply(&cfg); err != nil {
		return cfg, err
	}
	if err := cfg.Rules.Validate(); err != nil {
		return cfg, err
	}
	if err := checkFoundCgroup(cfg.Cgroup); err != nil && f.cgroup == "" {
		cfg.Warnings["cgroup"] = err
	}
	return cfg, f.loaderOptions(&cfg.Loader)
}

// checkWays checks the flags that decide how packets leave.
func (f *agentFlags) checkWays() error {
	if !slices.Contains([]node.XDPMode{node.XDPAuto, node.XDPOff, node.XDPAlways}, node.XDPMode(f.xdp)) {
		return fmt.Errorf("--xdp %s: one of auto, off, always", f.xdp)
	}
	if !slices.Contains([]node.ExpressMode{node.ExpressAuto, node.ExpressOff}, node.ExpressMode(f.express)) {
		return fmt.Errorf("--express %s: one of auto, off", f.express)
	}
	if node.ExpressMode(f.express) == node.ExpressOff && node.XDPMode(f.xdp) == node.XDPAlways {
		return fmt.Errorf("--xdp always and --express off: without the express way XDP has nothing to do")
	}
	return nil
}

// The default of --snat-ports is apart from NodePorts, and from the kernel's ephemeral ports
// (32768-60999): tunnels send from these, and pods, whose ports a masquerade keeps.
const (
	defaultSNATPorts = "10000-29999"
	otherSNATPorts   = "49152-65535"
)

func (f *agentFlags) loaderOptions(opts *loader.Options) error {
	nodePorts, err := node.ParsePortRange(f.nodePortRange)
	if err != nil {
		return fmt.Errorf("--nodeport-range: %w", err)
	}
	snat, err := node.ParsePortRange(f.snatPorts)
	if err != nil {
		return fmt.Errorf("--snat-ports: %w", err)
	}
	if snat.Overlaps(nodePorts) && f.snatPorts == defaultSNATPorts {
		if snat, err = node.ParsePortRange(otherSNATPorts); err != nil {
			return err
		}
	}
	if snat.Overlaps(nodePorts) {
		return fmt.Errorf("--snat-ports %s and --nodeport-range %s overlap", snat, nodePorts)
	}
	opts.NodePortMin, opts.NodePortMax = nodePorts.Min, nodePorts.Max
	opts.SNATMin, opts.SNATMax = snat.Min, snat.Max
	opts.MapSizes, err = f.sizes()
	return err
}

func (f *agentFlags) sizes() (map[string]uint32, error) {
	if len(f.mapSizes) == 0 {
		return nil, nil
	}
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	sizes := map[string]uint32{}
	for _, s := range f.mapSizes {
		name, value, _ := strings.Cut(s, "=")
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("--map-size %s: want name=elements", s)
		}
		if spec.Maps[name] == nil {
			return nil, fmt.Errorf("--map-size %s: there is no map %q", s, name)
		}
		sizes[name] = uint32(n)
	}
	return sizes, nil
}

// cgroupPath finds the root of the cgroup2 hierarchy, also on hosts that mount it beside v1.
func (f *agentFlags) cgroupPath() (string, error) {
	switch f.cgroup {
	case "none":
		return "", nil
	case "":
		root, err := loader.CgroupRoot()
		if err != nil {
			return "", fmt.Errorf("--cgroup: %w (\"none\" for no socket hooks)", err)
		}
		return root, nil
	}
	if info, err := os.Stat(f.cgroup); err != nil || !info.IsDir() {
		return "", fmt.Errorf("--cgroup %s: there is no such directory", f.cgroup)
	}
	return f.cgroup, nil
}

// checkFoundCgroup fails in a container without the node's hierarchy. The container's own cgroup
// looks like the root there: programs can be attached, but serve only processes in the container.
func checkFoundCgroup(path string) error {
	if loader.IsCgroupRoot(path) {
		return nil
	}
	return fmt.Errorf("%s is not the root of the hierarchy, so only sockets of processes in it are served: "+
		"mount the node's /sys/fs/cgroup into the agent's container, or choose with --cgroup", path)
}
