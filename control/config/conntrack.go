// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Conntrack is a parameter of the kernel's connection tracking that kube-proxy would set. waggle
// sets none: its own flows are not in that table, or don't depend on these parameters.
type Conntrack struct {
	Fields    string // that ask for it
	Parameter string // below net/netfilter
	Value     int    // a number of connections, of seconds, or 1
	Given     bool   // the file gives one of the fields; else the value is kube-proxy's default
}

// conntrackLimit is the highest number of connections that kube-proxy derives from maxPerCore.
const conntrackLimit = 1 << 20

// conntrack lists what kube-proxy would set. given is the file, effective the same with defaults.
func conntrack(given, effective *v1alpha1.KubeProxyConfiguration, cpus int) (all []Conntrack) {
	g, e := given.Conntrack, effective.Conntrack
	if n := connections(e, cpus); n > 0 {
		all = append(all, Conntrack{"conntrack.maxPerCore, conntrack.min", "nf_conntrack_max", n, g.MaxPerCore != nil || g.Min != nil})
	}
	timeout := func(field, parameter string, value *metav1.Duration, given bool) {
		if value != nil && value.Duration > 0 {
			all = append(all, Conntrack{"conntrack." + field, parameter, int(value.Duration / time.Second), given})
		}
	}
	timeout("tcpEstablishedTimeout", "nf_conntrack_tcp_timeout_established", e.TCPEstablishedTimeout, g.TCPEstablishedTimeout != nil)
	timeout("tcpCloseWaitTimeout", "nf_conntrack_tcp_timeout_close_wait", e.TCPCloseWaitTimeout, g.TCPCloseWaitTimeout != nil)
	if e.TCPBeLiberal {
		all = append(all, Conntrack{"conntrack.tcpBeLiberal", "nf_conntrack_tcp_be_liberal", 1, true})
	}
	timeout("udpTimeout", "nf_conntrack_udp_timeout", &e.UDPTimeout, true)
	timeout("udpStreamTimeout", "nf_conntrack_udp_timeout_stream", &e.UDPStreamTimeout, true)
	return all
}

// connections is how many connections kube-proxy makes room for; 0 leaves that as it is.
func connections(c v1alpha1.KubeProxyConntrackConfiguration, cpus int) int {
	if c.MaxPerCore == nil || *c.MaxPerCore <= 0 {
		return 0
	}
	scaled := int(*c.MaxPerCore) * cpus
	if scaled > conntrackLimit {
		return conntrackLimit
	}
	if c.Min != nil {
		return max(scaled, int(*c.Min))
	}
	return scaled
}
