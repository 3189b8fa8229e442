// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/sirupsen/logrus"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/waggle-lb/waggle/control/pools"
)

// Options say what to read and from which ranges to allocate.
type Options struct {
	// Dir is the directory of manifests.
	Dir string
	// NodePortRange is the range of node ports; 30000-32767 if zero.
	NodePortRange utilnet.PortRange
	// ServiceCIDRs are the ranges of cluster IPs; 10.96.0.0/16 and fd00:10:96::/112 if empty.
	// The family of the first is that of a single-stack Service which doesn't name one.
	ServiceCIDRs []netip.Prefix
	// KeptIPs are addresses that no Service is given, unless its manifest asks for one of them.
	KeptIPs []netip.Addr
	// AllocationFile keeps the allocations over restarts, and is shared by the agents of one
	// machine; .waggle-allocations.json in Dir if empty.
	AllocationFile string
	// Classes are those of the load balancers that get addresses of pools.
	Classes pools.Classes
	// CacheDir keeps the last good state of each file, the allocations and what the brake holds
	// over restarts; empty: not kept. It must not be shared.
	CacheDir string
	// Brake holds back mass deletions; nil: none.
	Brake *Brake
	// Log receives what happens; the standard logger if nil.
	Log *logrus.Entry
}

const (
	allocationFileName = ".waggle-allocations.json"
	maxPort            = 65535
)

var (
	defaultNodePortRange = utilnet.PortRange{Base: 30000, Size: 2768}
	defaultServiceCIDRs  = []netip.Prefix{
		netip.MustParsePrefix("10.96.0.0/16"),
		netip.MustParsePrefix("fd00:10:96::/112"),
	}
)

// complete fills in the defaults and refuses what can't work.
func (o Options) complete() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("manifest: the directory is not given")
	}
	o.Dir = filepath.Clean(o.Dir)
	if o.NodePortRange == (utilnet.PortRange{}) {
		o.NodePortRange = defaultNodePortRange
	}
	if r := o.NodePortRange; r.Base < 1 || r.Size < 1 || r.Base+r.Size-1 > maxPort {
		return o, fmt.Errorf("manifest: node port range %s: not within 1-%d", r.String(), maxPort)
	}
	if len(o.ServiceCIDRs) == 0 {
		o.ServiceCIDRs = defaultServiceCIDRs
	}
	for _, p := range o.ServiceCIDRs {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return o, fmt.Errorf("manifest: service CIDR %s: not a network address and its length", p)
		}
	}
	if o.AllocationFile == "" {
		o.AllocationFile = filepath.Join(o.Dir, allocationFileName)
	}
	o.AllocationFile = filepath.Clean(o.AllocationFile)
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return o, nil
}
