// SPDX-License-Identifier: Apache-2.0

// Package replay runs the packet-flow rows of kube-proxy's own unit tests through waggle.
//
// A row of those tests names a packet (source, protocol, destination) and what kube-proxy's rules
// make of it: the endpoints that it may be led to, whether its source is translated, or that it is
// dropped, rejected or left alone. The rows hold for Services and EndpointSlices that the tests build
// in Go, so they can't be read out of a file. They are recorded instead: kube-proxy's packages
// nftables and iptables are taken from the module cache, a few calls are added to their syntax trees,
// and their tests are run. Nothing of their source is kept.
//
// Each row is then replayed on a node like that of kube-proxy's tests: the control plane gets
// the same objects, a packet of a client outside or of a pod goes through the programs by
// BPF_PROG_TEST_RUN, and a process of the node connects a socket.
package replay
