// SPDX-License-Identifier: Apache-2.0

// Package pools decides which addresses Services of type LoadBalancer get from pools. It reads the
// documents that people have for MetalLB (metallb.io IPAddressPool, L2Advertisement) and for Cilium
// (cilium.io CiliumLoadBalancerIPPool, CiliumL2AnnouncementPolicy), and the annotations of both on Services.
//
// Everything here is a function of its arguments: [NewSet] judges documents, [Make] plans what the
// Services get. Who reads the documents, and who writes the statuses, is another package's.
//
// An address that a Service has is kept. A pool that is edited, disabled or deleted, a selector that no longer
// matches, and a sharing key that is withdrawn change nothing but what is reported. Only the Service itself
// gives an address up: by another type, by asking for other addresses or for another pool, or by giving up
// an IP family.
package pools
