// SPDX-License-Identifier: Apache-2.0

package replay

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// recordedCase is one call of kube-proxy's runPacketFlowTests. This file is compiled into
// kube-proxy's packages, too, which write what this one reads.
type recordedCase struct {
	Package string // nftables or iptables
	Test    string
	// Objects is false where a test has written rules by hand: there are no objects behind them.
	Objects           bool
	NodeName          string
	NodeIP            string
	NodeIPs           []string // all addresses of the node
	NodePortAddresses string   // as in "[192.168.0.0/24 192.168.1.0/24]"
	ServiceCIDRs      string   // separated by commas
	LocalDetector     string   // the condition of an nftables rule; empty: none
	MasqueradeAll     bool
	Services          []*v1.Service
	Slices            []*discovery.EndpointSlice
	Rows              []recordedRow
}

// recordedRow is a packetFlowTest.
type recordedRow struct {
	Name     string
	SourceIP string
	Protocol string // empty: TCP
	DestIP   string
	DestPort int
	Output   string
	Masq     bool
}
