// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// The Service whose endpoints are the API servers.
const (
	apiService     = "kubernetes"
	apiServicePort = "https"
)

func isAPIServers(s *discovery.EndpointSlice) bool {
	return s.Namespace == v1.NamespaceDefault && s.Labels[discovery.LabelServiceName] == apiService
}

// apiServers returns the addresses in a slice of the `kubernetes` Service.
func apiServers(s *discovery.EndpointSlice) (addresses []string) {
	if s.AddressType == discovery.AddressTypeFQDN {
		return nil
	}
	for _, p := range s.Ports {
		if p.Port == nil || len(s.Ports) > 1 && (p.Name == nil || *p.Name != apiServicePort) {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				addresses = append(addresses, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return addresses
}

// learning keeps the addresses of API servers that were learnt from their Service, over restarts
// too.
type learning struct {
	dialer *dialer
	file   string
	slices map[string][]string // by the name of the slice
}

func newLearning(d *dialer, file string) *learning {
	l := &learning{dialer: d, file: file, slices: map[string][]string{}}
	if file != "" {
		d.learn(readAddresses(file))
	}
	return l
}

// follow handles a change of any slice. It ignores a report that there is no API server: an API
// server has sent it.
func (l *learning) follow(old, new *discovery.EndpointSlice) error {
	if old != nil && isAPIServers(old) {
		delete(l.slices, old.Name)
	}
	if new != nil && isAPIServers(new) {
		l.slices[new.Name] = apiServers(new)
	} else if old == nil || !isAPIServers(old) {
		return nil
	}
	var all []string
	for _, addresses := range l.slices {
		all = append(all, addresses...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 || !l.dialer.learn(all) || l.file == "" {
		return nil
	}
	return writeAddresses(l.file, all)
}

// readAddresses reads one address a line, and skips invalid lines.
func readAddresses(file string) (addresses []string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for _, line := range strings.Fields(string(raw)) {
		if _, err := netip.ParseAddrPort(line); err == nil {
			addresses = append(addresses, line)
		}
	}
	return addresses
}

func writeAddresses(file string, addresses []string) error {
	if err := atomicfile.MakeDir(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(file, []byte(strings.Join(addresses, "\n")+"\n"), 0o600)
}
