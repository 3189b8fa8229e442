// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/serve"
)

// configFlags are the flags of `waggle agent` that kube-proxy's configuration file has fields for.
type configFlags struct {
	file             string
	healthz, metrics string
	probes           string
	hardFail         bool
	profiling        bool
	minSync, sync    time.Duration
	clusterCIDRs     []string
	masqueradeAll    bool
	// the limits of series; kube-proxy has no such fields
	metricsServices, metricsBackends int

	read *config.Settings // the file's settings; nil without a file
	// unused are settings of the file that no flag takes.
	unused []string
	// noKubeconfig is the reason why the agent does not use the file's clientConnection.kubeconfig.
	noKubeconfig error
}

func (f *configFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.file, "config", "", "kube-proxy's configuration file (KubeProxyConfiguration); flags on the command line override it")
	fs.StringVar(&f.healthz, "healthz-bind-address", "0.0.0.0:10256", "IP:port for /healthz and /livez; empty for none")
	fs.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:10249", "IP:port for /metrics, /proxyMode and /configz; empty for none")
	fs.StringVar(&f.probes, "probe-bind-address", "", "IP:port for /livez and /readyz, the probes of the agent's pod; kube-proxy has no such server (default: none)")
	fs.IntVar(&f.metricsServices, "metrics-services", serve.DefaultMetricsServices, "maximum number of service ports with metrics of their own: those with the most bytes")
	fs.IntVar(&f.metricsBackends, "metrics-backends", 0, "maximum number of backends with metrics of their own: those with the most bytes")
	fs.BoolVar(&f.hardFail, "bind-address-hard-fail", false, "end if the agent can't listen on one of these addresses, instead of trying again")
	fs.BoolVar(&f.profiling, "profiling", false, "serve /debug/pprof/ beside the metrics")
	fs.DurationVar(&f.minSync, "min-sync-period", control.DefaultPace.MinSync, "least time between two syncs")
	fs.DurationVar(&f.sync, "sync-period", control.DefaultPace.Repair, "interval at which the agent checks and repairs maps and attachments; the agent is unhealthy after twice that time without a successful sync")
	fs.StringSliceVar(&f.clusterCIDRs, "cluster-cidr", nil, "addresses of the cluster's pods: other clients of cluster IPs get a source address of this node")
	fs.BoolVar(&f.masqueradeAll, "masquerade-all", false, "give all clients of cluster IPs a source address of this node")
}

// readFile sets the flags that were not given from the configuration file.
func (f *configFlags) readFile(fs *pflag.FlagSet) error {
	if f.file == "" {
		return nil
	}
	s, err := config.Load(f.file)
	if err != nil {
		return err
	}
	f.read = s
	for _, set := range fromFile(s) {
		flag := fs.Lookup(set.flag)
		switch {
		case flag == nil, set.flag == "kubeconfig" && fs.Changed("manifests"): // another source was asked for
			f.unused = append(f.unused, set.field)
		case set.flag == "kubeconfig" && !flag.Changed && inCluster() && missing(set.value):
			f.noKubeconfig = fmt.Errorf("%s: ignored: clientConnection.kubeconfig: there is no file %s here; "+
				"the credentials of the pod are used", f.file, set.value)
		case !flag.Changed:
			if err := flag.Value.Set(set.value); err != nil {
				return fmt.Errorf("--config %s: %s: %w", f.file, set.field, err)
			}
		}
	}
	if err := s.SetFeatureGates(); err != nil {
		return fmt.Errorf("--config %s: featureGates: %w", f.file, err)
	}
	if s.ShowHiddenMetricsForVersion != "" {
		metrics.SetShowHidden()
	}
	return nil
}

// missing reports whether a file does not exist. kube-proxy's configuration names a file that only
// kube-proxy's own pod has.
func missing(file string) bool {
	_, err := os.Stat(file)
	return errors.Is(err, os.ErrNotExist)
}

// setting is a field of the file, and the flag that means the same.
type setting struct{ field, flag, value string }

// fromFile lists the file's settings. If a flag's default differs from kube-proxy's, it leaves out
// a field that the file doesn't set.
func fromFile(s *config.Settings) []setting {
	all := []setting{
		{"healthzBindAddress", "healthz-bind-address", s.HealthzBindAddress},
		{"metricsBindAddress", "metrics-bind-address", s.MetricsBindAddress},
		{"bindAddressHardFail", "bind-address-hard-fail", strconv.FormatBool(s.BindAddressHardFail)},
		{"enableProfiling", "profiling", strconv.FormatBool(s.EnableProfiling)},
		{"masqueradeAll", "masquerade-all", strconv.FormatBool(s.MasqueradeAll)},
		{"logging.format", "log-format", s.LogFormat},
	}
	given := func(is bool, field, flag, value string) {
		if is {
			all = append(all, setting{field, flag, value})
		}
	}
	given(s.NodeName != "", "hostnameOverride", "node-name", s.NodeName)
	given(s.Kubeconfig != "", "clientConnection.kubeconfig", "kubeconfig", s.Kubeconfig)
	given(s.QPS != 0, "clientConnection.qps", "kube-api-qps", strconv.FormatFloat(float64(s.QPS), 'g', -1, 32))
	given(s.Burst != 0, "clientConnection.burst", "kube-api-burst", strconv.Itoa(int(s.Burst)))
	given(len(s.NodePortAddresses) > 0, "nodePortAddresses", "nodeport-addresses", strings.Join(s.NodePortAddresses, ","))
	given(s.LogLevel != "", "logging.verbosity", "log-level", s.LogLevel)
	given(s.MinSyncPeriod != 0, "minSyncPeriod", "min-sync-period", s.MinSyncPeriod.String())
	given(s.SyncPeriod != 0, "syncPeriod", "sync-period", s.SyncPeriod.String())
	var sources []string
	for _, p := range s.LocalTraffic.Sources {
		sources = append(sources, p.String())
	}
	given(len(sources) > 0, "clusterCIDR", "cluster-cidr", strings.Join(sources, ","))
	return all
}

// apply checks the flags, and sets the parts of the agent's configuration that depend on them.
func (f *configFlags) apply(cfg *control.Config) error {
	for flag, address := range map[string]string{
		"healthz-bind-address": f.healthz, "metrics-bind-address": f.metrics, "probe-bind-address": f.probes,
	} {
		if err := checkBindAddress(address); err != nil {
			return fmt.Errorf("--%s %s: %w", flag, address, err)
		}
	}
	cfg.Serve = serve.Config{Healthz: f.healthz, Metrics: f.metrics, Probes: f.probes, HardFail: f.hardFail, Profiling: f.profiling,
		MetricsServices: f.metricsServices, MetricsBackends: f.metricsBackends}
	for flag, n := range map[string]int{"metrics-services": f.metricsServices, "metrics-backends": f.metricsBackends} {
		if n < 0 {
			return fmt.Errorf("--%s %d: want a number, or 0 for none", flag, n)
		}
	}
	cfg.Pace = control.Pace{MinSync: f.minSync, Repair: f.sync}
	if cfg.Pace == (control.Pace{}) {
		cfg.Pace = control.DefaultPace
	}
	if cfg.Pace.Repair <= 0 {
		return fmt.Errorf("--sync-period %v: must be more than 0", cfg.Pace.Repair)
	}
	if cfg.Pace.MinSync < 0 || cfg.Pace.MinSync > cfg.Pace.Repair {
		return fmt.Errorf("--min-sync-period %v: must be from 0 to --sync-period, %v", cfg.Pace.MinSync, cfg.Pace.Repair)
	}
	cfg.MasqueradeAll = f.masqueradeAll
	for _, s := range f.clusterCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("--cluster-cidr: %q is not a network address and its length", s)
		}
		cfg.LocalSources = append(cfg.LocalSources, p.Masked())
	}
	// Mode NodeCIDR needs no setting: packets of other nodes' pods come in by an external device.
	if f.read != nil && len(cfg.LocalSources) == 0 && len(cfg.Rules.Pods) == 0 {
		cfg.Rules.Pods = f.read.LocalTraffic.Devices
	}
	cfg.Warnings = f.warnings()
	cfg.Conntrack = f.conntrack()
	var err error
	cfg.Serve.Configz, err = f.effective(cfg)
	return err
}

// checkBindAddress checks an address as kube-proxy does.
func checkBindAddress(address string) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("want IP:port")
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%q is not an IP address", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port", port)
	}
	return nil
}

// warnings returns the parts of the file that have no effect.
func (f *configFlags) warnings() map[string]error {
	out := map[string]error{}
	if f.read == nil {
		return out
	}
	if fields := append(f.unused, f.read.Ignored...); len(fields) > 0 {
		out["configuration"] = fmt.Errorf("%s: no meaning here, and ignored: %s", f.file, strings.Join(fields, ", "))
	}
	if f.read.Lenient != nil {
		out["configuration file"] = fmt.Errorf("%s: ignored: %w", f.file, f.read.Lenient)
	}
	if f.noKubeconfig != nil {
		out["kubeconfig"] = f.noKubeconfig
	}
	if refused := f.read.RefusedGates; len(refused) > 0 {
		var gates []string
		for _, gate := range slices.Sorted(maps.Keys(refused)) {
			gates = append(gates, fmt.Sprintf("%s (%v)", gate, refused[gate]))
		}
		out["feature gates"] = fmt.Errorf("%s: ignored: featureGates: %s", f.file, strings.Join(gates, ", "))
	}
	return out
}

// conntrack returns the parameters that kube-proxy would set with the file; none without a file.
func (f *configFlags) conntrack() (all []node.ConntrackParameter) {
	if f.read == nil {
		return nil
	}
	for _, c := range f.read.Conntrack {
		all = append(all, node.ConntrackParameter{From: c.Fields, Name: c.Parameter, Want: c.Value, Given: c.Given})
	}
	return all
}

// effective returns the resulting configuration, in kube-proxy's terms.
func (f *configFlags) effective(cfg *control.Config) (*v1alpha1.KubeProxyConfiguration, error) {
	s := f.read
	if s == nil {
		var err error
		if s, err = config.Default(); err != nil {
			return nil, err
		}
	}
	c := s.Effective.DeepCopy()
	c.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("KubeProxyConfiguration"))
	c.HostnameOverride = cfg.NodeName
	c.HealthzBindAddress, c.MetricsBindAddress = cfg.Serve.Healthz, cfg.Serve.Metrics
	c.BindAddressHardFail, c.EnableProfiling = cfg.Serve.HardFail, cfg.Serve.Profiling
	minimum, period := config.Periods(c)
	*minimum, *period = metav1.Duration{Duration: cfg.Pace.MinSync}, metav1.Duration{Duration: cfg.Pace.Repair}
	*config.MasqueradeAll(c) = cfg.MasqueradeAll
	var sources []string
	for _, p := range cfg.LocalSources {
		sources = append(sources, p.String())
	}
	if len(sources) > 0 {
		c.DetectLocalMode, c.ClusterCIDR = v1alpha1.LocalMode(kubeproxy.LocalModeClusterCIDR), strings.Join(sources, ",")
	}
	return c, nil
}
