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
	// Kubeconfig is a file that tells an API server and credentials; the environment of a pod
	// tells them if empty.
	Kubeconfig string
	// APIServers are addresses of API servers, as ParseAPIServer returns them, which are tried
	// before others.
	APIServers []string
	// APIServersBy is the setting that gives them, for people.
	APIServersBy string
	// APIServersHow tells how to give some, for people, where there are none and the API server can't
	// be reached.
	APIServersHow string
	// ServiceProxyName is served besides what is labelled for no service proxy; empty: nothing is.
	ServiceProxyName string
	// ServiceCIDRs are the ranges of cluster IPs where the API server does not tell them.
	ServiceCIDRs []netip.Prefix
	// Pools has addresses of pools given to Services; nil: none are.
	Pools *PoolOptions
	// AddressFile keeps the addresses of API servers that were learnt; empty: not kept.
	AddressFile string
	// UserAgent is how we present ourselves; client-go's if empty.
	UserAgent string
	// Log receives what happens; the standard logger if nil.
	Log *logrus.Entry
}

// inClusterName is what the certificate of every API server is for, whichever address it is
// reached at.
const inClusterName = "kubernetes.default.svc"

// restConfig reads how to talk to the API server. What it dials is ordered as follows: what we
// are told; what we have learnt; and the cluster IP last, since it works only if we do.
func (o Options) restConfig(pod func() (*rest.Config, error)) (*rest.Config, *dialer, error) {
	var cfg *rest.Config
	var err error
	if o.Kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	} else if cfg, err = pod(); err == nil {
		cfg.ServerName = inClusterName
	}
	if err != nil {
		return nil, nil, fmt.Errorf("how to reach the API server: %w", err)
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

// hostPort is what the transport dials for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": httpsPort}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// origin tells where an address comes from that is not learnt.
func (o Options) origin(address string) string {
	switch {
	case slices.Contains(o.APIServers, address):
		return o.APIServersBy
	case o.Kubeconfig != "":
		return "--kubeconfig " + o.Kubeconfig
	}
	return "the cluster IP of the kubernetes Service, which works only where Services do already"
}

// pace is how long things take.
type pace struct {
	probe     time.Duration // between probes of the API server that works
	reprobe   time.Duration // before the second probe of one that doesn't; twice as long before each more
	longest   time.Duration // between two of these
	answer    time.Duration // that a probe waits for its answer
	node      time.Duration // that our Node is waited for
	addresses time.Duration // that the addresses of our Node are waited for
}

// kube-proxy waits as long for addresses. Longer won't do: who sets them may need Services.
var defaultPace = pace{
	probe:     10 * time.Second,
	reprobe:   time.Second,
	longest:   30 * time.Second,
	answer:    10 * time.Second,
	node:      5 * time.Minute,
	addresses: 30 * time.Second,
}
