// SPDX-License-Identifier: Apache-2.0

// Package topo builds small networks out of network namespaces and sends real
// traffic through them: a laptop and some nodes on one Ethernet, and pods
// behind the nodes.
//
//	laptop 192.168.1.10 --+
//	node-1 192.168.1.2  --+-- bridge     node-1 -- pods 10.244.0.2 ..
//	node-2 192.168.1.3  --+              node-2 -- pods 10.244.1.2 ..
//
// IPv6 mirrors it: fd00:192:168:1::10, ::2, ::3 and fd00:10:244:0::2. The text
// of the last group is that of the IPv4 address, so pod .12 is ::12.
//
// [Network.AddEthernet] adds a second Ethernet, 192.168.2.0/24, and
// [Node.AddGuest] a machine or container behind a bridge of a node.
//
// Servers and clients are re-executions of the running binary inside a
// namespace and a cgroup, so [Main] must come first in main or TestMain. Close
// removes everything that a [Network] made. If the process dies first,
// everything but empty cgroups goes with it (names under /run/netns are the
// other exception, see [Options.Named] and [Sweep]).
// exception, see [Options.Named] and [Sweep]).
//
// The laptop and the nodes have no default route, and only the nodes have
// routes to pods. A test adds the routes that it needs with [Host.AddRoute]. So
// a packet to an address that leaks untranslated goes nowhere.
package topo
