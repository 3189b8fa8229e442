// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options say which cluster to follow, and for which node.
type Options struct {
	// NodeName is the name of our Node object.
	NodeName string
	// Kubeconfig is a file with an API server and credentials. If it is empty, they come from the
	// environment of a pod.
	Kubeconfig string
	// APIServers are addresses of API servers, in the form that ParseAPIServer returns. They are
	// tried before others.
	APIServers []string
	// APIServersBy is the name of the setting that has these addresses, for messages.
	APIServersBy string
	// APIServersHow describes how to set addresses. It is added to messages if there are none and the
	// API server can't be reached.
	APIServersHow string
	// ServiceProxyName: Services with this label value are served, too, besides those without the
	// label. Empty: only those without.
	ServiceProxyName string
	// ServiceCIDRs are the ranges of cluster IPs, if the API server does not report them.
	ServiceCIDRs []netip.Prefix
	// Pools says how Services get addresses of pools; nil: they get none.
	Pools *PoolOptions
	// AddressFile keeps the addresses of API servers that were learnt; empty: not kept.
	AddressFile string
	// UserAgent is the client's name in requests; client-go's if empty.
	UserAgent string
	// Log is the log; the standard logger if nil.
	Log *logrus.Entry
}

// inClusterName is in the certificate of every API server, whichever address it is reached at.
const inClusterName = "kubernetes.default.svc"

// restConfig reads the client's configuration. The order of addresses is: the configured ones; the
// learnt ones; and the cluster IP last, since it works only if waggle serves it.
func (o Options) restConfig(pod func() (*rest.Config, error)) (*rest.Config, *dialer, error) {
	cfg, err := o.credentials(pod)
	if err != nil {
		return nil, nil, err
	}
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.UserAgent = o.UserAgent
	u, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("the API server's URL: %w", err)
	}
	host := hostPort(u)
	first, last := o.APIServers, []string{host}
	if o.Kubeconfig != "" {
		first, last = append(first[:len(first):len(first)], host), nil
	}
	d := newDialer(host, first, last)
	d.origin = o.origin
	cfg.Dial = d.DialContext
	return cfg, d, nil
}

// credentials reads the kubeconfig or, without one, the configuration of the pod. Its errors name which.
func (o Options) credentials(pod func() (*rest.Config, error)) (*rest.Config, error) {
	if o.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("load kubeconfig (--kubeconfig): %w", err)
		}
		return cfg, nil
	}
	cfg, err := pod()
	if err != nil {
		return nil, fmt.Errorf("load in-cluster configuration: %w", err)
	}
	cfg.ServerName = inClusterName
	return cfg, nil
}

// hostPort returns the host and port that the transport dials for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": httpsPort}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// origin describes where a configured address comes from.
func (o Options) origin(address string) string {
	switch {
	case slices.Contains(o.APIServers, address):
		return o.APIServersBy
	case o.Kubeconfig != "":
		return "--kubeconfig " + o.Kubeconfig
	}
	return "the cluster IP of the kubernetes Service, which works only where Services do already"
}

// pace are the durations of the source.
type pace struct {
	probe     time.Duration // between probes of an API server that works
	reprobe   time.Duration // before the second probe of one that doesn't; doubles with each more
	longest   time.Duration // the longest of these pauses
	answer    time.Duration // how long a probe waits for its answer
	node      time.Duration // how long the source waits for our Node
	addresses time.Duration // how long the source waits for the addresses of our Node
}

// kube-proxy waits as long for addresses. A longer wait may never end: the program that sets them may
// need Services.
var defaultPace = pace{
	probe:     10 * time.Second,
	reprobe:   time.Second,
	longest:   30 * time.Second,
	answer:    10 * time.Second,
	node:      5 * time.Minute,
	addresses: 30 * time.Second,
}
