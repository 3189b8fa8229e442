/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_NEXTHOP_H
#define WAGGLE_NEXTHOP_H

#include "scratch.h"

enum device_flags {
	DEVICE_EXPRESS = 1, /* tc may send by redirect, past the stack */
	DEVICE_XDP = 2, /* XDP may transmit on it */
	DEVICE_EGRESS = 4, /* our program sees what leaves by it */
};

/* What the programs must know of a device, by ifindex. */
struct device {
	__u32 flags; /* enum device_flags */
	__be32 addr4; /* what SNAT uses for packets that leave by it */
	__be32 addr6[4];
};

/* Element 0 holds the node's primary addresses, for devices with none. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct device);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} devices SEC(".maps");

/* Where XDP may redirect to, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} xdp_devices SEC(".maps");

static __always_inline __u32 device_flags(__u32 ifindex)
{
	struct device *device = bpf_map_lookup_elem(&devices, &ifindex);

	return device ? device->flags : 0;
}

/*
 * Asks the FIB where `t` goes, as if routed after it came in by `ifindex`.
 * Returns BPF_FIB_LKUP_RET_*, or a negative errno; the device in fib->ifindex
 * is set on SUCCESS and on NO_NEIGH, the route's MTU in fib->mtu_result on
 * SUCCESS.
 */
static __always_inline long fib_lookup(void *ctx, int family, __u32 ifindex, const __be32 *saddr,
				       const __be32 *daddr, __u8 proto, struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->l4_protocol = proto;
	fib->ifindex = ifindex;
	fib->tot_len =
		1; /* not 0, which asks tc's helper to judge the packet by the device's MTU */
	if (family == AF_INET) {
		fib->ipv4_src = saddr[0];
		fib->ipv4_dst = daddr[0];
	} else {
		addr_copy(family, fib->ipv6_src, saddr);
		addr_copy(family, fib->ipv6_dst, daddr);
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/* Whether the next hop's MTU, where it is known, is exceeded. */
static __always_inline bool too_big(const struct flow *f, __u32 len)
{
	return f->mtu && len > f->mtu;
}

/* Whether a record still rewrites to what it did when `to` was read from it. */
static __always_inline bool rewrites_to(int family, const struct flow *f, const struct tuple *to)
{
	struct tuple now_to;

	flow_rewrite(family, f, to, &now_to);
	return addr_equal(family, now_to.saddr.word, to->saddr.word) &&
	       addr_equal(family, now_to.daddr.word, to->daddr.word) && now_to.sport == to->sport &&
	       now_to.dport == to->dport;
}

/*
 * Records what the FIB has answered, as fib_lookup() leaves it. A neighbour that is not
 * resolved leaves the epoch stale, so that the next packet asks again.
 */
static __always_inline void nexthop_set(struct flow *f, const struct bpf_fib_lookup *fib, long ret,
					__u32 flags, __u32 epoch)
{
	f->hop.ifindex = fib->ifindex;
	f->mtu = 0;
	if (ret != BPF_FIB_LKUP_RET_SUCCESS)
		return;
	f->mtu = fib->mtu_result;
	__builtin_memcpy(f->hop.dmac, fib->dmac, ETH_ALEN);
	__builtin_memcpy(f->hop.smac, fib->smac, ETH_ALEN);
	f->flags = (f->flags & ~(FLOW_XDP | FLOW_DIRECT)) | (flags & DEVICE_XDP ? FLOW_XDP : 0) |
		   (flags & DEVICE_EXPRESS ? FLOW_DIRECT : 0);
	f->hop.epoch = epoch;
}

/*
 * Renews a record's next hop. False: nowhere to send. `t` is what the record is
 * found by: as with netfilter, a source is routed before it is rewritten.
 */
static __always_inline bool nexthop_refresh(void *ctx, int family, __u32 ifindex, struct flow *f,
					    const struct tuple *t, const struct tuple *to)
{
	__u32 epoch = current_epoch();
	struct scratch *s = scratch();
	struct bpf_fib_lookup *fib;
	long ret;

	if (!s)
		return false;
	fib = &s->fib;
	f->hop.epoch = 0;
	ret = fib_lookup(ctx, family, ifindex, t->saddr.word, to->daddr.word, to->proto, fib);
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	nexthop_set(f, fib, ret, device_flags(fib->ifindex), epoch);
	/*
	 * A deleted element is used again at once. If this one has become
	 * another flow's meanwhile, that flow must not keep our next hop.
	 */
	if (!rewrites_to(family, f, to))
		f->hop.epoch = 0;
	return true;
}

/* Seconds. */
#define NEIGHBOUR_USE 5

/*
 * The kernel asks whether a neighbour is still where it was when the stack
 * sends to it; of what a program transmits it never hears. So every few
 * seconds one packet of each flow leaves by bpf_redirect_neigh, each flow's at
 * a time of its own.
 */
static __always_inline bool neighbour_due(const struct flow *f, const struct packet *p)
{
	__u32 period = NEIGHBOUR_USE * hz, phase = p->tuple.sport + p->tuple.dport;
	__u32 time = now();

	if (time - f->last_seen < hz) /* it is noted once a second */
		return false;
	return (time + phase) / period != (f->last_seen + phase) / period;
}

#endif
