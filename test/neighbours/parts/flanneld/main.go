// SPDX-License-Identifier: Apache-2.0

// The command flanneld is flannel's daemon, made of flannel's own packages, with the backends VXLAN
// and host-gw. Flannel's own main package compiles all backends in, some of which need the SDK of a
// cloud. This one does the same in the same order: it takes a lease for the node's pods, sets up the
// backend, the masquerade rules and the forward rules, writes the subnet file, and runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"k8s.io/klog/v2"
)

// What flannel's manifest leaves at the defaults of its flags.
const (
	annotations  = "flannel.alpha.coreos.com"
	resyncPeriod = 5 // seconds
)

var (
	kubeconfig = flag.String("kubeconfig-file", "", "the API server, by which nodes find each other; the node is named by NODE_NAME")
	config     = flag.String("net-config-path", "", "the networks and the backend")
	subnetFile = flag.String("subnet-file", "", "file with the node's subnets and the MTU, for the CNI plugin")
	iface      = flag.String("iface", "", "the device that leads to other nodes; by default that of the default route")
)

func main() {
	klog.InitFlags(nil)
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		klog.Error(err)
		klog.Flush()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sm, err := kube.NewSubnetManager(ctx, "", *kubeconfig, annotations, *config, false)
	if err != nil {
		return fmt.Errorf("subnet manager: %w", err)
	}
	conf, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	var running sync.WaitGroup
	network, err := register(ctx, &running, sm, conf)
	if err != nil {
		return err
	}
	if err := setUpRules(ctx, conf, network.Lease()); err != nil {
		return err
	}
	l := network.Lease()
	if err := sm.HandleSubnetFile(*subnetFile, conf, true, l.Subnet, l.IPv6Subnet, network.MTU()); err != nil {
		return fmt.Errorf("subnet file %s: %w", *subnetFile, err)
	}
	running.Go(func() { network.Run(ctx) })
	err = sm.CompleteLease(ctx, l, &running)
	running.Wait()
	return err
}

// register takes the lease and sets up the backend's devices.
func register(ctx context.Context, running *sync.WaitGroup, sm subnet.Manager, conf *subnet.Config) (backend.Network, error) {
	families, err := ipmatch.GetIPFamily(conf.EnableIPv4, conf.EnableIPv6)
	if err != nil {
		return nil, err
	}
	outside, err := ipmatch.LookupExtIface(*iface, "", "", families, ipmatch.PublicIPOpts{})
	if err != nil {
		return nil, fmt.Errorf("device %q: %w", *iface, err)
	}
	be, err := backend.NewManager(ctx, sm, outside).GetBackend(conf.BackendType)
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w", conf.BackendType, err)
	}
	network, err := be.RegisterNetwork(ctx, running, conf)
	if err != nil {
		return nil, fmt.Errorf("register at backend %s: %w", conf.BackendType, err)
	}
	return network, nil
}

// setUpRules masquerades what leaves the pods' network, and accepts what is forwarded to and from it.
func setUpRules(ctx context.Context, conf *subnet.Config, l *lease.Lease) error {
	var rules, others trafficmngr.TrafficManager = &iptables.IPTablesManager{}, &nftables.NFTablesManager{}
	if conf.EnableNFTables {
		rules, others = others, rules
	}
	if err := others.CleanUp(ctx); err != nil {
		return fmt.Errorf("clean up after the other kind of rules: %w", err)
	}
	if err := rules.Init(ctx); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	none4, none6 := ip.IP4Net{}, ip.IP6Net{IP: ip.FromIP6([]byte{15: 0})} // no earlier run
	err := rules.SetupAndEnsureMasqRules(ctx, conf.Network, none4, none4, conf.IPv6Network, none6, none6, l, resyncPeriod, false)
	if err != nil {
		return fmt.Errorf("masquerade rules: %w", err)
	}
	rules.SetupAndEnsureForwardRules(ctx, conf.Network, conf.IPv6Network, resyncPeriod)
	return nil
}
