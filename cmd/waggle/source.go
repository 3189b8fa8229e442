// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/kube"
	"github.com/waggle-lb/waggle/control/manifest"
	"github.com/waggle-lb/waggle/control/members"
	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/source"
)

// apiServersEnv has the addresses of API servers if --api-server is not given. In
// deploy/waggle.yaml it comes from apiServersKey of the ConfigMap.
const (
	apiServersEnv   = "WAGGLE_API_SERVERS"
	apiServersKey   = "api-servers"
	apiServersByEnv = apiServersKey + ", " + apiServersEnv
	apiServersHow   = "no address of an API server is given, and the kubernetes Service does not work before waggle runs: set " +
		apiServersKey + " in the ConfigMap of waggle (" + apiServersEnv + ", or --api-server), and restart the agents"
)

// sourceFlags say where Services come from.
type sourceFlags struct {
	manifests, allocations string
	serviceCIDRs           []string
	kubeconfig             string
	apiServers             []string
	serviceProxyName       string
	pools                  bool
	classes                []string
	brake                  float64 // see agentFlags.add
	names                  namesFlags

	peers          []string
	membersKeyFile string
	membersPort    uint16
	membersAddress string
}

func (f *sourceFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.manifests, "manifests", "", "directory of YAML with Services, Pods, Nodes and EndpointSlices, instead of a cluster")
	fs.StringVar(&f.allocations, "allocations", "", "file that keeps allocated cluster IPs and node ports (default: in the directory of manifests)")
	fs.StringSliceVar(&f.serviceCIDRs, "service-cidrs", nil, "ranges of cluster IPs: with --manifests, to allocate from (default: 10.96.0.0/16,fd00:10:96::/112); in a cluster, only if the API server does not report them")
	f.names.add(fs)
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file with the API server and the credentials (default: the in-cluster configuration of the agent's pod)")
	fs.StringSliceVar(&f.apiServers, "api-server", nil, "API servers' real addresses, as https URLs or host:port; they work before any Service does (default: $"+apiServersEnv+")")
	fs.StringVar(&f.serviceProxyName, "service-proxy-name", "", "serve only Services with this value of the label service.kubernetes.io/service-proxy-name (default: Services without the label)")
	fs.BoolVar(&f.pools, "load-balancer-pools", false, "in a cluster: give Services addresses of MetalLB's and Cilium's pools (deploy/addresses.yaml); with --manifests, pools in the directory are always used")
	fs.StringSliceVar(&f.classes, "load-balancer-class", []string{pools.NoClass}, "values of spec.loadBalancerClass: these Services get addresses of pools; \"none\" stands for Services without a class")
	fs.StringSliceVar(&f.peers, "peers", nil, "agents on other nodes that announce the same addresses, as host or host:port (default: in a cluster, the endpoints of the Service "+kube.MembersService+")")
	fs.StringVar(&f.membersKeyFile, "members-key-file", "", "file with the secret that agents which announce addresses have in common; in a cluster, without it no address is announced")
	fs.Uint16Var(&f.membersPort, "members-port", members.DefaultPort, "port by which these agents reach each other, UDP and TCP")
	fs.StringVar(&f.membersAddress, "members-address", "", "address of this node by which they do (default: that of its Node object, or of its device)")
}

func inCluster() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// name returns the source's name for messages.
func (f *sourceFlags) name() string {
	switch {
	case f.manifests != "":
		return "manifests in " + f.manifests
	case f.kubeconfig != "":
		return "Kubernetes, by " + f.kubeconfig
	}
	return "Kubernetes, as a pod"
}

// check finds contradictory flags, and the lack of a source.
func (f *sourceFlags) check() error {
	if f.serviceProxyName != "" {
		if errs := validation.IsValidLabelValue(f.serviceProxyName); len(errs) > 0 {
			return fmt.Errorf("--service-proxy-name: %q is not a valid label value: %s", f.serviceProxyName, strings.Join(errs, "; "))
		}
	}
	for _, class := range f.classes {
		if errs := validation.IsQualifiedName(class); len(errs) > 0 {
			return fmt.Errorf("--load-balancer-class: %q is not a valid class: %s", class, strings.Join(errs, "; "))
		}
	}
	if err := f.checkMembers(); err != nil {
		return err
	}
	if f.brake < 0 || f.brake > 1 {
		return fmt.Errorf("--deletion-brake %v: want a fraction from 0 to 1", f.brake)
	}
	switch {
	case f.manifests != "" && f.kubeconfig != "":
		return errors.New("--manifests and --kubeconfig: give one of them: Services come from a directory or from a cluster")
	case f.manifests != "" && len(f.apiServers) > 0:
		return errors.New("--manifests and --api-server: Services come from a directory, so there is no API server")
	case f.manifests == "" && f.kubeconfig == "" && !inCluster():
		return errors.New("give --manifests or --kubeconfig: this is not a pod of a cluster (KUBERNETES_SERVICE_HOST is not set), so the agent has no source of Services")
	}
	return nil
}

// checkMembers checks what is said of the other agents.
func (f *sourceFlags) checkMembers() error {
	for _, p := range f.peers {
		if err := members.ParsePeer(p); err != nil {
			return fmt.Errorf("--peers: %w", err)
		}
	}
	switch {
	case len(f.peers) > 0 && f.membersKeyFile == "":
		return errors.New("--peers: --members-key-file is not given, and agents need a common secret")
	case f.membersKeyFile != "" && f.manifests == "" && !f.pools:
		return errors.New("--members-key-file: --load-balancer-pools is not given, so there is nothing to announce")
	case f.membersKeyFile != "" && f.membersPort == 0:
		return errors.New("--members-port 0: not a port")
	}
	if f.membersAddress != "" {
		if a, err := netip.ParseAddr(f.membersAddress); err != nil || a.IsUnspecified() || a.Zone() != "" {
			return fmt.Errorf("--members-address: %q is not an IP address of this node", f.membersAddress)
		}
	}
	return nil
}

// announce is how addresses are announced; nil: they aren't. With manifests a node alone does so without a group.
func (f *sourceFlags) announce() (*control.AnnounceConfig, error) {
	if f.manifests == "" && f.membersKeyFile == "" {
		return nil, nil
	}
	cfg := &control.AnnounceConfig{Classes: f.classes, Port: f.membersPort, Peers: f.peers}
	if f.manifests != "" && cfg.Peers == nil {
		cfg.Peers = []string{}
	}
	if f.membersAddress != "" {
		cfg.Address = netip.MustParseAddr(f.membersAddress).Unmap()
	}
	if f.membersKeyFile != "" {
		key, err := members.ReadKey(f.membersKeyFile)
		if err != nil {
			return nil, fmt.Errorf("--members-key-file: %w", err)
		}
		cfg.Key = &key
	}
	return cfg, nil
}

func (f *sourceFlags) source(g *globals, cfg control.Config, log *logrus.Entry) (source.Source, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	cidrs, err := f.ranges()
	if err != nil {
		return nil, err
	}
	if f.manifests != "" {
		return f.fromManifests(g, cfg, cidrs, log)
	}
	return f.fromCluster(g, cfg, cidrs, log)
}

func (f *sourceFlags) ranges() (cidrs []netip.Prefix, err error) {
	for _, s := range f.serviceCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("--service-cidrs: %q is not a network address and its length", s)
		}
		cidrs = append(cidrs, p)
	}
	return cidrs, nil
}

func (f *sourceFlags) fromManifests(g *globals, cfg control.Config, cidrs []netip.Prefix, log *logrus.Entry) (source.Source, error) {
	first, last := cfg.Loader.NodePortMin, cfg.Loader.NodePortMax
	return manifest.New(manifest.Options{
		Dir:            f.manifests,
		NodePortRange:  utilnet.PortRange{Base: int(first), Size: int(last-first) + 1},
		ServiceCIDRs:   cidrs,
		KeptIPs:        cfg.Names.Addresses,
		AllocationFile: f.allocations,
		Classes:        f.classes,
		CacheDir:       rundir.Cache(g.runDir),
		Brake:          &manifest.Brake{Fraction: f.brake},
		Log:            log,
	})
}

func (f *sourceFlags) fromCluster(g *globals, cfg control.Config, cidrs []netip.Prefix, log *logrus.Entry) (source.Source, error) {
	servers, by, err := f.servers()
	if err != nil && by != apiServersByEnv {
		return nil, err
	}
	if err != nil { // a mistake in the ConfigMap must not end all agents of a cluster
		cfg.Warnings[apiServersKey] = fmt.Errorf("%w; the agent ignores it: correct it in the ConfigMap of waggle, and restart the agents", err)
	}
	var addresses *kube.PoolOptions
	if f.pools {
		addresses = &kube.PoolOptions{Namespace: leaseNamespace(), Classes: f.classes}
	}
	return kube.New(kube.Options{
		Pools:            addresses,
		NodeName:         cfg.NodeName,
		Kubeconfig:       f.kubeconfig,
		APIServers:       servers,
		APIServersBy:     by,
		APIServersHow:    apiServersHow,
		ServiceProxyName: f.serviceProxyName,
		ServiceCIDRs:     cidrs,
		AddressFile:      filepath.Join(rundir.Cache(g.runDir), "api-servers"),
		UserAgent:        "waggle/" + version,
		Log:              log,
	})
}

// leaseNamespace returns the namespace of the agent's pod; outside of a pod, the one of Kubernetes' own
// components.
func leaseNamespace() string {
	raw, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if name := strings.TrimSpace(string(raw)); err == nil && name != "" {
		return name
	}
	return metav1.NamespaceSystem
}

// servers reads the addresses of API servers: from the flag or, without it, from the environment. by
// is the name of the one that was used. The error names the invalid addresses; the valid ones are
// returned with it.
func (f *sourceFlags) servers() (addresses []string, by string, err error) {
	given, by := f.apiServers, "--api-server"
	if len(given) == 0 {
		by = apiServersByEnv
		given = strings.FieldsFunc(os.Getenv(apiServersEnv), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	}
	var errs []error
	for _, s := range given {
		address, err := kube.ParseAPIServer(strings.TrimSpace(s))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", by, err))
			continue
		}
		addresses = append(addresses, address)
	}
	return addresses, by, errors.Join(errs...)
}
