// SPDX-License-Identifier: Apache-2.0

// Package neighbours runs waggle on nodes as they really are: beside real CNI plugins and flannel's
// daemon, and behind the rules that firewalls and others leave on a node. In each such environment
// the same traffic goes through kube-proxy first and then through waggle: what works with kube-proxy
// must work with waggle.
//
// Two nodes and an outside client are on one Ethernet. Pods are attached by Debian's CNI plugins,
// which a small runtime (parts/cni) runs. Services and endpoints are those of a real API server.
// `make test-neighbours` builds the parts, and runs everything; `-fast` asks for the environments
// that every submission should see.
package neighbours
