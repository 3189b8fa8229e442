/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_HOP_H
#define WAGGLE_HOP_H

#include "addr.h"

enum hop_flags {
	HOP_RESOLVED = 1, /* dmac is the neighbour's */
	HOP_XDP = 2, /* XDP may transmit on the device */
	HOP_TC = 4, /* tc may transmit on it with these MACs: it has a link layer */
};

/* How to transmit. A MAC and what follows it are read and written as one word. */
struct hop {
	__u8 dmac[ETH_ALEN];
	__u16 flags; /* enum hop_flags */
	__u8 smac[ETH_ALEN];
	__u16 mtu; /* of the route, in bytes from the IP header on; 0: not known */
	__u32 ifindex;
} __attribute__((aligned(8)));

/* Whether the next hop's MTU, where it is known, is exceeded. */
static __always_inline bool too_big(const struct hop *h, __u32 len)
{
	return h->mtu && len > h->mtu;
}

#endif
