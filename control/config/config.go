// SPDX-License-Identifier: Apache-2.0

// Package config reads kube-proxy's configuration file, a KubeProxyConfiguration of
// kubeproxy.config.k8s.io/v1alpha1, and says what of it has a meaning for waggle.
package config

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
	"k8s.io/kubernetes/pkg/proxy/apis/config/validation"
)

// Settings is what a file sets for an agent. What the file leaves out has kube-proxy's default,
// except where a comment says otherwise.
type Settings struct {
	NodeName   string  // "" if the file doesn't say
	Kubeconfig string  // "" if the file doesn't say
	QPS        float32 // 0 if the file doesn't say
	Burst      int32   // 0 if the file doesn't say

	HealthzBindAddress  string // address:port
	MetricsBindAddress  string // address:port
	BindAddressHardFail bool
	EnableProfiling     bool

	// NodePortAddresses are CIDRs, or "primary" alone; none if the file doesn't say.
	NodePortAddresses []string
	MasqueradeAll     bool
	LocalTraffic      LocalTraffic

	// MinSyncPeriod and SyncPeriod are those of the block of the file's mode; 0 if the file
	// doesn't say, since kube-proxy's defaults are made for rule sets that are written whole.
	MinSyncPeriod, SyncPeriod time.Duration

	LogLevel  string // a level of logrus; "" if the file doesn't say
	LogFormat string // text or json

	ShowHiddenMetricsForVersion string // "" for none
	FeatureGates                map[string]bool
	// RefusedGates are the feature gates that can't be set as the file says, and why: those that
	// are not known, of another version of Kubernetes, and those that are locked. They are ignored,
	// and are in neither FeatureGates nor Effective.
	RefusedGates map[string]error

	// Conntrack is what kube-proxy would set of the kernel's connection tracking.
	Conntrack []Conntrack

	// Ignored are the fields that are set to something else than their default, and have no
	// meaning here: paths as in "ipvs.scheduler", sorted. Those of Conntrack are not among them.
	Ignored []string
	// Lenient is what strict decoding found wrong (unknown fields, fields given twice); nil if
	// nothing. Such fields are ignored, as kube-proxy ignores them.
	Lenient error
	// Effective is the whole configuration, with defaults.
	Effective *v1alpha1.KubeProxyConfiguration
}

// LocalTraffic says how to recognise pods' own traffic, as kube-proxy's detectLocalMode does. At
// most one of its members is set.
type LocalTraffic struct {
	Sources  []netip.Prefix // mode ClusterCIDR
	Devices  []string       // modes BridgeInterface and InterfaceNamePrefix, as patterns of path.Match
	NodeCIDR bool           // mode NodeCIDR: the Node object's spec.podCIDRs
}

// Default returns the settings that an empty file has.
func Default() (*Settings, error) {
	return Parse([]byte("apiVersion: " + v1alpha1.SchemeGroupVersion.String() + "\nkind: KubeProxyConfiguration\n"))
}

// Load reads a file. Its errors name the file, and the field that is at fault.
func Load(file string) (*Settings, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	s, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	return s, nil
}

// Parse reads the contents of a file, YAML or JSON.
func Parse(raw []byte) (*Settings, error) {
	given, overlooked, err := decode(raw)
	if err != nil {
		return nil, err
	}
	effective := given.DeepCopy()
	setDefaults(effective)
	var refused map[string]error
	effective.FeatureGates, refused = splitGates(effective.FeatureGates)
	internal := toInternal(effective)
	if internal.DetectLocalMode == "" {
		internal.DetectLocalMode = kubeproxy.LocalModeClusterCIDR // as kube-proxy does on Linux
	}
	if err := validate(internal); err != nil {
		return nil, err
	}
	s := settings(given, internal)
	s.RefusedGates, s.Lenient, s.Effective = refused, overlooked, effective
	s.Conntrack = conntrack(given, effective, runtime.NumCPU())
	if s.LocalTraffic, err = localTraffic(internal); err != nil {
		return nil, err
	}
	s.Ignored, err = ignored(effective)
	return s, err
}

// settings copies what needs no conversion: from the file as it is, and from the file with defaults.
func settings(given *v1alpha1.KubeProxyConfiguration, internal *kubeproxy.KubeProxyConfiguration) *Settings {
	minimum, period := Periods(given)
	return &Settings{
		NodeName:                    internal.HostnameOverride,
		Kubeconfig:                  internal.ClientConnection.Kubeconfig,
		QPS:                         given.ClientConnection.QPS,
		Burst:                       given.ClientConnection.Burst,
		HealthzBindAddress:          internal.HealthzBindAddress,
		MetricsBindAddress:          internal.MetricsBindAddress,
		BindAddressHardFail:         internal.BindAddressHardFail,
		EnableProfiling:             internal.EnableProfiling,
		NodePortAddresses:           internal.NodePortAddresses,
		MasqueradeAll:               internal.Linux.MasqueradeAll,
		MinSyncPeriod:               minimum.Duration,
		SyncPeriod:                  period.Duration,
		LogLevel:                    logLevel(given),
		LogFormat:                   internal.Logging.Format,
		ShowHiddenMetricsForVersion: internal.ShowHiddenMetricsForVersion,
		FeatureGates:                internal.FeatureGates,
	}
}

// validate applies kube-proxy's own rules. kube-proxy registers the JSON log format with its
// logger; the agent's logger has its own.
func validate(c *kubeproxy.KubeProxyConfiguration) error {
	checked := c.DeepCopy()
	if checked.Logging.Format == "json" {
		checked.Logging.Format = "text"
	}
	return validation.Validate(checked).ToAggregate()
}

// localTraffic reads detectLocalMode and the fields that belong to it.
func localTraffic(c *kubeproxy.KubeProxyConfiguration) (LocalTraffic, error) {
	var l LocalTraffic
	switch c.DetectLocalMode {
	case kubeproxy.LocalModeClusterCIDR:
		for _, s := range c.DetectLocal.ClusterCIDRs {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return l, fmt.Errorf("clusterCIDR: %q is not a network address and its length", s)
			}
			l.Sources = append(l.Sources, p.Masked())
		}
	case kubeproxy.LocalModeNodeCIDR:
		l.NodeCIDR = true
	case kubeproxy.LocalModeBridgeInterface:
		l.Devices = []string{quote(c.DetectLocal.BridgeInterface)}
	case kubeproxy.LocalModeInterfaceNamePrefix:
		l.Devices = []string{quote(c.DetectLocal.InterfaceNamePrefix) + "*"}
	}
	return l, nil
}
