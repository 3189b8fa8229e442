// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
)

// strict and lenient decode a KubeProxyConfiguration, and no other kind. For strict, unknown fields
// and fields given twice are errors; lenient ignores them.
var strict, lenient = func() (strict, lenient runtime.Decoder) {
	scheme := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(),
		serializer.NewCodecFactory(scheme, serializer.DisableStrict).UniversalDeserializer()
}()

// decode returns what the file says, without defaults. Like kube-proxy, it decodes strictly first
// and, if that fails, leniently. It returns the error of the strict decoding if the lenient one
// succeeds.
func decode(raw []byte) (given *v1alpha1.KubeProxyConfiguration, overlooked, err error) {
	object, kind, err := strict.Decode(raw, nil, nil)
	if runtime.IsStrictDecodingError(err) {
		overlooked = err
		object, kind, err = lenient.Decode(raw, nil, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	given, ok := object.(*v1alpha1.KubeProxyConfiguration)
	if !ok {
		return nil, nil, fmt.Errorf("it holds a %s, not a KubeProxyConfiguration", kind.Kind)
	}
	return given, overlooked, nil
}

// Periods points to the sync periods of the block that the mode selects: that of nftables or
// ipvs if it is one of these, else that of iptables.
func Periods(c *v1alpha1.KubeProxyConfiguration) (minimum, period *metav1.Duration) {
	switch kubeproxy.ProxyMode(c.Mode) {
	case kubeproxy.ProxyModeNFTables:
		return &c.NFTables.MinSyncPeriod, &c.NFTables.SyncPeriod
	case kubeproxy.ProxyModeIPVS:
		return &c.IPVS.MinSyncPeriod, &c.IPVS.SyncPeriod
	}
	return &c.IPTables.MinSyncPeriod, &c.IPTables.SyncPeriod
}

// MasqueradeAll points to the field of the block that the mode selects: that of nftables if it is
// that, else that of iptables.
func MasqueradeAll(c *v1alpha1.KubeProxyConfiguration) *bool {
	if kubeproxy.ProxyMode(c.Mode) == kubeproxy.ProxyModeNFTables {
		return &c.NFTables.MasqueradeAll
	}
	return &c.IPTables.MasqueradeAll
}

// logLevel maps klog's verbosity to a level of logrus. klog's level 4 is for debugging, and 6 and
// above are for traces.
func logLevel(c *v1alpha1.KubeProxyConfiguration) string {
	switch v := c.Logging.Verbosity; {
	case v == 0:
		return ""
	case v < 4:
		return "info"
	case v < 6:
		return "debug"
	}
	return "trace"
}

// quote makes a pattern of path.Match that matches one name only.
func quote(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}
