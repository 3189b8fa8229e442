// SPDX-License-Identifier: Apache-2.0

// Package bgp runs BIRD with the examples of deploy/bgp on nodes and on a router, beside agents, and sends traffic through
// that. It needs bird2 from Debian's packages: make test-bgp.
package bgp
