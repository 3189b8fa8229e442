/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_RETURN_H
#define WAGGLE_RETURN_H

#include "open.h"

/*
 * Replies leave by the device that their requests came in by. The kernel routes
 * a backend's answer while its source is the backend's still, so rules by
 * source, or one of several default routes, may lead to another uplink, whose
 * network knows nothing of the frontend. (Rules by connection mark, which
 * netfilter's users have for that, find no mark: the connection that the kernel
 * tracks is the one that we have translated.)
 */

/* 0: unknown, or the record is no such reply's. */
static __always_inline __u32 reply_device(const struct record *r)
{
	if (!(r->flags & FLOW_REPLY) || (r->hop & HOP_INDEX_MASK) != HOP_INDEX_MASK)
		return 0;
	return r->hop >> 32;
}

static __always_inline bool is_uplink(__u32 ifindex)
{
	const struct device *device = device_get(ifindex);

	return device && device->flags & DEVICE_UPLINK;
}

/*
 * Whether the answer at hand, which is rewritten, is about to leave by another
 * uplink than the request came in by, and that one has a route to the client.
 */
static __always_inline bool reply_astray(struct __sk_buff *skb, struct scratch *s)
{
	__u32 ifindex = reply_device(&s->record);
	int family = packet_family(&s->packet);
	long ret;

	if (!ifindex || ifindex == skb->ifindex || !is_uplink(skb->ifindex) || !is_uplink(ifindex))
		return false;
	ret = fib_lookup(skb, family, ifindex, 0, &s->record.to, BPF_FIB_LOOKUP_OUTPUT, s);
	return (ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       s->fib.ifindex == ifindex;
}

#endif
