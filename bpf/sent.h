/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SENT_H
#define WAGGLE_SENT_H

#include "runtime.h"

/*
 * A packet that tc ingress sends by redirect meets tc egress on its way out,
 * and nothing is left to do there. skb->cb says so. Between the two hooks it
 * has no owner, unlike skb->mark, which has a meaning for others: a redirect
 * leads straight into dev_queue_xmit(), which only writes the packet's length,
 * before it. What others have left there does not hold 64 random bits, and
 * the IP receive path overwrites these, so they do not come back with one.
 * The bits are as old as the maps: while an agent that starts replaces one
 * program after the other, each knows what the others have sent.
 */
static __always_inline __u64 sent_mark(void)
{
	return flows_seed() ^ 0x7761676776616767ULL;
}

static __always_inline void sent_by_us(struct __sk_buff *skb)
{
	__u64 mark = sent_mark();

	skb->cb[0] = mark;
	skb->cb[1] = mark >> 32;
}

/* True once for a packet: a tunnel may make another packet of this one. */
static __always_inline bool was_sent_by_us(struct __sk_buff *skb)
{
	__u64 mark = sent_mark();

	if (skb->cb[0] != (__u32)mark || skb->cb[1] != mark >> 32)
		return false;
	skb->cb[0] = 0;
	return true;
}

#endif
