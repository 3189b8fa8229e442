// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	netutils "k8s.io/utils/net"
)

// Ports of kube-proxy (k8s.io/kubernetes/pkg/cluster/ports).
const (
	healthzPort = 10256
	metricsPort = 10249
)

// setDefaults fills in what a file leaves out, as kube-proxy 1.36 does. kube-proxy's own function
// (k8s.io/kubernetes/pkg/proxy/apis/config/v1alpha1) is in a package that imports kubelet and the
// cloud provider, which doubles the size of a binary. TestConfigurationAsKubeProxy (test/kube) compares with
// kube-proxy.
func setDefaults(c *v1alpha1.KubeProxyConfiguration) {
	defaultAddresses(c)
	defaultPeriods(c)
	defaultConntrack(&c.Conntrack)
	orDefault(&c.OOMScoreAdj, -999)
	orDefault(&c.IPTables.LocalhostNodePorts, true)
	orDefault(&c.IPTables.MasqueradeBit, 14)
	orDefault(&c.NFTables.MasqueradeBit, 14)
	if c.ClientConnection.ContentType == "" {
		c.ClientConnection.ContentType = "application/vnd.kubernetes.protobuf"
	}
	if c.ClientConnection.QPS == 0 {
		c.ClientConnection.QPS = 5
	}
	if c.ClientConnection.Burst == 0 {
		c.ClientConnection.Burst = 10
	}
	if c.FeatureGates == nil {
		c.FeatureGates = map[string]bool{}
	}
	logsapi.SetRecommendedLoggingConfiguration(&c.Logging)
}

func defaultAddresses(c *v1alpha1.KubeProxyConfiguration) {
	if c.BindAddress == "" {
		c.BindAddress = "0.0.0.0"
	}
	anywhere, loopback := "::", "::1"
	if netutils.ParseIPSloppy(c.BindAddress).To4() != nil {
		anywhere, loopback = "0.0.0.0", "127.0.0.1"
	}
	if c.HealthzBindAddress == "" {
		c.HealthzBindAddress = anywhere
	}
	if c.MetricsBindAddress == "" {
		c.MetricsBindAddress = loopback
	}
	c.HealthzBindAddress = proxyutil.AppendPortIfNeeded(c.HealthzBindAddress, healthzPort)
	c.MetricsBindAddress = proxyutil.AppendPortIfNeeded(c.MetricsBindAddress, metricsPort)
}

func defaultPeriods(c *v1alpha1.KubeProxyConfiguration) {
	for _, period := range []struct {
		of        *metav1.Duration
		byDefault time.Duration
	}{
		{&c.IPTables.SyncPeriod, 30 * time.Second}, {&c.IPTables.MinSyncPeriod, time.Second},
		{&c.NFTables.SyncPeriod, 30 * time.Second}, {&c.NFTables.MinSyncPeriod, time.Second},
		{&c.IPVS.SyncPeriod, 30 * time.Second}, {&c.ConfigSyncPeriod, 15 * time.Minute},
	} {
		if period.of.Duration == 0 {
			period.of.Duration = period.byDefault
		}
	}
}

func defaultConntrack(c *v1alpha1.KubeProxyConntrackConfiguration) {
	orDefault(&c.MaxPerCore, 32*1024)
	orDefault(&c.Min, 128*1024)
	orDefault(&c.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	orDefault(&c.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})
}

// orDefault sets a field that the file leaves out.
func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
