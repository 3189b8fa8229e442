// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/waggle-lb/waggle/control/names"
)

// namesFlags say where the names of Services are answered.
type namesFlags struct {
	addresses          []string
	domain, resolvConf string
}

func (f *namesFlags) add(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.addresses, "dns", nil, "with --manifests: answer DNS queries for names of Services at this address, or at one of each family, e.g. 10.96.0.10,fd00:10:96::a (default: not at all)")
	fs.StringVar(&f.domain, "dns-domain", "cluster.local", "with --dns: domain of the cluster, in NAME.NAMESPACE.svc.DOMAIN")
	fs.StringVar(&f.resolvConf, "dns-resolv-conf", "/etc/resolv.conf", "with --dns: file that names the resolvers for all other names")
}

// options checks the flags.
func (f *namesFlags) options(manifests bool) (names.Options, error) {
	if len(f.addresses) == 0 {
		return names.Options{}, nil
	}
	opts := names.Options{Domain: strings.ToLower(strings.Trim(f.domain, ".")), ResolvConf: f.resolvConf}
	if !manifests {
		return opts, errors.New("--dns: only with --manifests: in a cluster its own DNS (CoreDNS) answers for the names of Services")
	}
	for _, s := range f.addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || !servable(a) {
			return opts, fmt.Errorf("--dns: %q is not an address that a Service can have", s)
		}
		for _, other := range opts.Addresses {
			if other.Is4() == a.Is4() {
				return opts, fmt.Errorf("--dns: %s and %s are of the same family: at most one of each", other, a)
			}
		}
		opts.Addresses = append(opts.Addresses, a)
	}
	if faults := validation.IsDNS1123Subdomain(opts.Domain); len(faults) > 0 {
		return opts, fmt.Errorf("--dns-domain: %q is not a domain: %s", f.domain, faults[0])
	}
	return opts, nil
}

// servable reports whether an address may be a frontend. It is to be the same everywhere, and to belong to one host.
func servable(a netip.Addr) bool {
	return !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && a != names.Listen6
}
