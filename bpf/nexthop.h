/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_NEXTHOP_H
#define WAGGLE_NEXTHOP_H

#include "scratch.h"
#include "trace.h"

enum device_flags {
	DEVICE_TC_TRANSMITS = 1, /* tc may send by redirect, past the stack */
	DEVICE_XDP_TRANSMITS = 2, /* XDP may transmit on it */
	DEVICE_EGRESS_HOOK = 4, /* our program sees what leaves by it */
	DEVICE_POD = 8, /* pods are behind it, or behind its ports */
	DEVICE_ETHERNET = 16, /* its frames begin with an Ethernet header */
	DEVICE_UPLINK = 32, /* replies leave by it if their requests came in by it */
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

/*
 * The next hops that flows use, so that a neighbour that changes its MAC is one
 * write, and the FIB is asked once a flow. An element belongs to the generation
 * of routes that it was asked in, and is another next hop's only in a later
 * one. A flow's `hop` names element and generation: generation << 32 | index.
 */
struct nexthop {
	struct hop hop;
	__u32 generation; /* 0: none; HOP_CLAIMED: being written */
	__be32 addr[4]; /* the neighbour's */
	__u32 family; /* AF_INET or AF_INET6: of the neighbour's address */
	__u32 pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct nexthop);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} nexthops SEC(".maps");

/* max_entries of it, set by the loader. */
volatile const __u32 nexthops_size = 4096;

/* Whether bpf_fib_lookup() takes a mark (Linux 6.10). */
volatile const bool fib_takes_mark = false;

#define HOP_CLAIMED (~0U)
/* How many elements are tried before a flow does without. */
#define HOP_TRIES 8
#ifndef BPF_FIB_LOOKUP_MARK
#define BPF_FIB_LOOKUP_MARK 32
#endif

static __always_inline struct device *device_get(__u32 ifindex)
{
	return bpf_map_lookup_elem(&devices, &ifindex);
}

/*
 * Asks the FIB what the stack would: where the packet at hand goes that has
 * come in by `ifindex` and that is found under `t`, once its destination is
 * that of s->record. As with netfilter, a source is routed before it is
 * rewritten. `flags`: BPF_FIB_LOOKUP_OUTPUT if it shall leave by `ifindex`, or
 * none. Returns BPF_FIB_LKUP_RET_*, or a negative errno. s->fib.ifindex
 * and the neighbour's address are set on SUCCESS and on NO_NEIGH, the route's
 * MTU in mtu_result on SUCCESS.
 */
static __always_inline long fib_lookup(void *ctx, int family, __u32 ifindex, __u32 mark,
				       const struct tuple *t, __u32 flags, struct scratch *s)
{
	const struct tuple *to = &s->record.to;
	struct bpf_fib_lookup *fib = &s->fib;
	__be32 word = s->packet.ip_word;
	long ret;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->l4_protocol = t->proto;
	fib->sport = t->sport;
	fib->dport = to->dport;
	fib->ifindex = ifindex;
	/* not 0, which asks tc's helper to judge the packet by the device's MTU */
	fib->tot_len = 1;
	if (family == AF_INET) {
		fib->tos = bpf_ntohl(word) >> 16;
		fib->ipv4_src = t->saddr.word[0];
		fib->ipv4_dst = to->daddr.word[0];
	} else {
		fib->flowinfo = word & bpf_htonl(0x0fffffff);
		addr_copy(family, fib->ipv6_src, t->saddr.word);
		addr_copy(family, fib->ipv6_dst, to->daddr.word);
	}
	if (fib_takes_mark && mark) {
		/* in the union with the MACs that are returned; our header is older */
		*(__u32 *)fib->smac = mark;
		flags |= BPF_FIB_LOOKUP_MARK;
	}
	ret = bpf_fib_lookup(ctx, fib, sizeof(*fib), flags);
	note_fib(ret, fib);
	return ret;
}

static __always_inline bool hop_is(const struct nexthop *n, const struct bpf_fib_lookup *fib)
{
	if (n->hop.ifindex != fib->ifindex || n->hop.mtu != fib->mtu_result ||
	    n->family != fib->family)
		return false;
	if (fib->family == AF_INET)
		return n->addr[0] == fib->ipv4_dst;
	return addr_equal(AF_INET6, n->addr, fib->ipv6_dst);
}

static __always_inline void hop_set_dmac(struct nexthop *n, const struct bpf_fib_lookup *fib,
					 __u16 flags)
{
	struct hop h = { .flags = flags };

	__builtin_memcpy(h.dmac, fib->dmac, ETH_ALEN);
	*(volatile __u64 *)&n->hop = *(__u64 *)&h;
}

static __always_inline void hop_write(struct nexthop *n, const struct bpf_fib_lookup *fib,
				      __u16 flags)
{
	hop_set_dmac(n, fib, flags);
	__builtin_memcpy(n->hop.smac, fib->smac, ETH_ALEN);
	n->hop.mtu = fib->mtu_result;
	n->hop.ifindex = fib->ifindex;
	n->family = fib->family;
	if (fib->family == AF_INET)
		n->addr[0] = fib->ipv4_dst;
	else
		addr_copy(AF_INET6, n->addr, fib->ipv6_dst);
}

static __always_inline __u32 hop_hash(const struct bpf_fib_lookup *fib)
{
	__u32 hash = fib->ifindex * 0x9e3779b1 + fib->ipv6_dst[0];

	if (fib->family == AF_INET6)
		hash += (fib->ipv6_dst[1] * 31 + fib->ipv6_dst[2]) * 31 +
			fib->ipv6_dst[3] * 0x85ebca6b;
	hash *= 0x9e3779b1;
	return hash ^ hash >> 15;
}

/*
 * The element of a resolved answer of the FIB, of generation `generation`; it
 * is made if it isn't there. 0: there is no room. Two processors may make two
 * of one next hop; both are right, and the agent keeps both so.
 */
__noinline __u64 nexthop_store(const struct bpf_fib_lookup *fib, __u32 flags, __u32 generation,
			       __u32 changes)
{
	__u32 i, index, hash, seen;
	struct nexthop *n;

	if (!fib || !generation || explain)
		return 0;
	hash = hop_hash(fib);
	for (i = 0; i < HOP_TRIES; i++) {
		index = (hash + i) % nexthops_size;
		n = bpf_map_lookup_elem(&nexthops, &index);
		if (!n)
			return 0;
		seen = *(volatile __u32 *)&n->generation;
		if (seen == generation && hop_is(n, fib)) {
			hop_set_dmac(n, fib, flags);
			break;
		}
		if (seen == generation || seen == HOP_CLAIMED ||
		    __sync_val_compare_and_swap(&n->generation, seen, HOP_CLAIMED) != seen)
			continue;
		hop_write(n, fib, flags);
		__sync_lock_test_and_set(&n->generation, generation);
		break;
	}
	if (i == HOP_TRIES)
		return 0;
	/*
	 * The agent counts a change before it writes it to the elements that it
	 * finds. If it had not counted it by now, it will find this one.
	 */
	if (neighbour_changes() != changes)
		__sync_fetch_and_and((__u64 *)&n->hop, ~((__u64)HOP_RESOLVED << 48));
	return (__u64)generation << 32 | index;
}

/* Reads a flow's next hop. False: it must be asked for. */
static __always_inline bool nexthop_get(const struct record *r, struct hop *h)
{
	__u32 generation = r->hop >> 32, index = r->hop & HOP_INDEX_MASK;
	const volatile struct nexthop *n;

	if (generation != current_generation())
		return false;
	n = bpf_map_lookup_elem(&nexthops, &index);
	if (!n)
		return false;
	*(__u64 *)h->dmac = *(const volatile __u64 *)n->hop.dmac;
	*(__u64 *)h->smac = *(const volatile __u64 *)n->hop.smac;
	h->ifindex = n->hop.ifindex;
	/* it may have become another's of the next generation meanwhile */
	return n->generation == generation && h->flags & HOP_RESOLVED;
}

/*
 * Makes of the FIB's answer in s->fib the next hop in s->hop, and what a record
 * keeps of it: 0 of a neighbour that is not resolved, so that the next packet
 * asks again. `device` is what is known of the device.
 */
__noinline __u64 hop_learn(struct scratch *s, int resolved, __u32 device, __u32 generation,
			   __u32 changes)
{
	const __u32 tc_frames = DEVICE_TC_TRANSMITS | DEVICE_ETHERNET;

	if (!s)
		return 0;
	s->hop = (struct hop){ .ifindex = s->fib.ifindex };
	if (!resolved)
		return 0;
	s->hop.flags = HOP_RESOLVED | (device & DEVICE_XDP_TRANSMITS ? HOP_XDP : 0) |
		       ((device & tc_frames) == tc_frames ? HOP_TC : 0);
	s->hop.mtu = s->fib.mtu_result;
	__builtin_memcpy(s->hop.dmac, s->fib.dmac, ETH_ALEN);
	__builtin_memcpy(s->hop.smac, s->fib.smac, ETH_ALEN);
	return nexthop_store(&s->fib, s->hop.flags, generation, changes);
}

/*
 * Asks for the next hop of s->record anew, and records it. False: nowhere to
 * send. A neighbour that is not resolved leaves s->hop.flags 0. `t` is the
 * tuple that the record is found by.
 */
static __always_inline bool nexthop_ask(void *ctx, int family, __u32 ifindex, __u32 mark,
					const struct tuple *t, struct scratch *s)
{
	__u32 generation = current_generation(), changes = neighbour_changes();
	struct device *device;
	__u64 hop;
	long ret;

	ret = fib_lookup(ctx, family, ifindex, mark, t, 0, s);
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	device = device_get(s->fib.ifindex);
	hop = hop_learn(s, ret == BPF_FIB_LKUP_RET_SUCCESS, device ? device->flags : 0, generation,
			changes);
	if (hop)
		flow_set_hop(family, &s->record, hop);
	return true;
}

/* Sends a packet by a device, to the neighbour that the FIB has just named. */
static __always_inline long redirect_fib(__u32 ifindex, struct scratch *s)
{
	const struct bpf_fib_lookup *fib = &s->fib;

	s->neighbour.nh_family = fib->family;
	if (fib->family == AF_INET)
		s->neighbour.ipv4_nh = fib->ipv4_dst;
	else
		addr_copy(AF_INET6, s->neighbour.ipv6_nh, fib->ipv6_dst);
	return bpf_redirect_neigh(ifindex, &s->neighbour, sizeof(s->neighbour), 0);
}

/*
 * The same, to the neighbour of a flow's next hop, s->hop. Without one the
 * kernel would route the packet once more: with several default routes it could
 * choose the gateway of another device (IPv6 heeds no device there).
 */
static __always_inline long redirect_hop(const struct record *r, struct scratch *s)
{
	__u32 generation = r->hop >> 32, index = r->hop & HOP_INDEX_MASK;
	const struct nexthop *n;

	if (!(s->hop.flags & HOP_RESOLVED)) /* the FIB was asked just now */
		return redirect_fib(s->hop.ifindex, s);
	n = bpf_map_lookup_elem(&nexthops, &index);
	if (!n || generation != current_generation() || generation != n->generation)
		return bpf_redirect_neigh(s->hop.ifindex, NULL, 0, 0);
	s->neighbour.nh_family = n->family;
	addr_copy(AF_INET6, s->neighbour.ipv6_nh, n->addr);
	return bpf_redirect_neigh(s->hop.ifindex, &s->neighbour, sizeof(s->neighbour), 0);
}

/* Seconds. */
#define NEIGHBOUR_USE 5

/*
 * The kernel asks whether a neighbour is still where it was when the stack
 * sends to it; of what a program transmits it never hears. So every few
 * seconds one packet of each flow leaves by bpf_redirect_neigh, each flow's at
 * a time of its own.
 */
static __always_inline bool neighbour_due(const struct record *r, const struct packet *p)
{
	__u32 period = NEIGHBOUR_USE * hz, phase = p->tuple.sport + p->tuple.dport;
	__u32 time = r->time;

	if ((__s32)(time - r->last_seen) < (__s32)hz) /* it is noted once a second */
		return false;
	return (time + phase) / period != (r->last_seen + phase) / period;
}

#endif
