/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SENT_H
#define WAGGLE_SENT_H

#include "config.h"

/*
 * A packet that tc ingress sends by redirect meets tc egress on its way out,
 * and nothing is left to do there. skb->cb tells so. It is nobody's between
 * the two hooks, unlike skb->mark, which has a meaning for others: a redirect
 * leads straight into dev_queue_xmit(), which only writes the packet's length,
 * before it. What others have left there does not hold 64 random bits, and
 * who receives IP packets overwrites these, so they do not come back with one.
 */
static __always_inline void sent_by_us(struct __sk_buff *skb)
{
	skb->cb[0] = sent_mark;
	skb->cb[1] = sent_mark >> 32;
}

/* Told once: a tunnel may make another packet of this one. */
static __always_inline bool was_sent_by_us(struct __sk_buff *skb)
{
	if (skb->cb[0] != (__u32)sent_mark || skb->cb[1] != sent_mark >> 32)
		return false;
	skb->cb[0] = 0;
	return true;
}

#endif
