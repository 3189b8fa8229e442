// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"

	componentbase "k8s.io/component-base/config"
	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
)

// toInternal converts a configuration with defaults to kube-proxy's internal type, which its
// validation takes. Fields are as kube-proxy 1.36 converts them; TestInternal finds those that are
// missing.
func toInternal(c *v1alpha1.KubeProxyConfiguration) *kubeproxy.KubeProxyConfiguration {
	c = c.DeepCopy()
	minimum, period := Periods(c)
	return &kubeproxy.KubeProxyConfiguration{
		Linux: kubeproxy.KubeProxyLinuxConfiguration{
			Conntrack:     kubeproxy.KubeProxyConntrackConfiguration(c.Conntrack),
			MasqueradeAll: *MasqueradeAll(c),
			OOMScoreAdj:   c.OOMScoreAdj,
		},
		Windows:                     kubeproxy.KubeProxyWindowsConfiguration{RunAsService: c.WindowsRunAsService},
		FeatureGates:                c.FeatureGates,
		ClientConnection:            componentbase.ClientConnectionConfiguration(c.ClientConnection),
		Logging:                     c.Logging,
		HostnameOverride:            c.HostnameOverride,
		BindAddress:                 c.BindAddress,
		HealthzBindAddress:          c.HealthzBindAddress,
		MetricsBindAddress:          c.MetricsBindAddress,
		BindAddressHardFail:         c.BindAddressHardFail,
		EnableProfiling:             c.EnableProfiling,
		ShowHiddenMetricsForVersion: c.ShowHiddenMetricsForVersion,
		Mode:                        kubeproxy.ProxyMode(c.Mode),
		IPTables: kubeproxy.KubeProxyIPTablesConfiguration{
			MasqueradeBit: c.IPTables.MasqueradeBit, LocalhostNodePorts: c.IPTables.LocalhostNodePorts,
		},
		IPVS: kubeproxy.KubeProxyIPVSConfiguration{
			Scheduler: c.IPVS.Scheduler, ExcludeCIDRs: c.IPVS.ExcludeCIDRs, StrictARP: c.IPVS.StrictARP,
			TCPTimeout: c.IPVS.TCPTimeout, TCPFinTimeout: c.IPVS.TCPFinTimeout, UDPTimeout: c.IPVS.UDPTimeout,
		},
		Winkernel:         kubeproxy.KubeProxyWinkernelConfiguration(c.Winkernel),
		NFTables:          kubeproxy.KubeProxyNFTablesConfiguration{MasqueradeBit: c.NFTables.MasqueradeBit},
		DetectLocalMode:   kubeproxy.LocalMode(c.DetectLocalMode),
		DetectLocal:       detectLocal(c),
		NodePortAddresses: c.NodePortAddresses,
		SyncPeriod:        *period,
		MinSyncPeriod:     *minimum,
		ConfigSyncPeriod:  c.ConfigSyncPeriod,
	}
}

func detectLocal(c *v1alpha1.KubeProxyConfiguration) kubeproxy.DetectLocalConfiguration {
	d := kubeproxy.DetectLocalConfiguration{
		BridgeInterface: c.DetectLocal.BridgeInterface, InterfaceNamePrefix: c.DetectLocal.InterfaceNamePrefix,
	}
	if c.ClusterCIDR != "" {
		d.ClusterCIDRs = strings.Split(c.ClusterCIDR, ",")
	}
	return d
}
