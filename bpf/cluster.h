/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CLUSTER_H
#define WAGGLE_CLUSTER_H

#include "addr.h"
#include "trace.h"
#include "verdict.h"

/*
 * Addresses that belong to services although no frontend answers there: what
 * is sent to them must not be routed away.
 */

/* Whose a cluster IP is. */
enum cluster_addr {
	CLUSTER_ADDR_OURS = 1,
	CLUSTER_ADDR_OTHERS = 2, /* another service proxy's: left to it */
};

/* The cluster IPs of all services, enum cluster_addr; IPv4 as ::ffff:a.b.c.d. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} cluster_addrs SEC(".maps");

enum cluster_range_flags {
	CLUSTER_RANGE_USED = 1,
	CLUSTER_RANGE_DROP = 2, /* a service CIDR: what is not allocated is dropped */
};

struct cluster_range {
	__be32 addr[4];
	__be32 mask[4];
	__u32 flags; /* enum cluster_range_flags */
};

#define CLUSTER_RANGES 4

/* Together they hold all of cluster_addrs. Those in use come first. */
struct cluster_range_set {
	struct cluster_range v4[CLUSTER_RANGES];
	struct cluster_range v6[CLUSTER_RANGES];
};

/*
 * The set in force is sets[current & 1]. The agent writes the other one, then
 * counts on: a torn one would drop strangers' packets.
 */
struct cluster_guard {
	__u32 current;
	struct cluster_range_set sets[2];
};

/* They spare what is for other addresses the lookup in cluster_addrs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cluster_guard);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} cluster_ranges SEC(".maps");

/*
 * What the routes by this node's pods' devices lead to, or more. They spare new flows of
 * clients elsewhere the question to the FIB, see source_is_pod().
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cluster_guard);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_ranges SEC(".maps");

static __always_inline bool in_cluster_range(int family, const struct cluster_range *r,
					     const __be32 *addr)
{
	if ((addr[0] & r->mask[0]) != r->addr[0])
		return false;
	if (family == AF_INET)
		return true;
	return (addr[1] & r->mask[1]) == r->addr[1] && (addr[2] & r->mask[2]) == r->addr[2] &&
	       (addr[3] & r->mask[3]) == r->addr[3];
}

static __always_inline const __u8 *cluster_addr_lookup(int family, const __be32 *addr)
{
	struct addr key = {};

	if (family == AF_INET) {
		key.word[2] = bpf_htonl(0xffff);
		key.word[3] = addr[0];
	} else {
		addr_copy(family, key.word, addr);
	}
	return bpf_map_lookup_elem(&cluster_addrs, &key);
}

/* The flags of all ranges that hold an address. */
static __always_inline __u32 set_flags(int family, const struct cluster_range_set *set,
				       const __be32 *addr)
{
	const struct cluster_range *r = family == AF_INET ? set->v4 : set->v6;
	__u32 flags = 0;
	int i;

	for (i = 0; i < CLUSTER_RANGES && r[i].flags; i++) {
		if (in_cluster_range(family, &r[i], addr))
			flags |= r[i].flags;
	}
	return flags;
}

/*
 * The flags of all ranges in force that hold an address. A set is written to only
 * after `current` has moved on: a second look finds out.
 */
static __always_inline __u32 flags_in_force(int family, volatile struct cluster_guard *guard,
					    const __be32 *addr)
{
	__u32 flags, current;

	if (!guard)
		return 0;
	current = guard->current;
	flags = set_flags(family, (void *)&guard->sets[current & 1], addr);
	barrier();
	if (guard->current == current)
		return flags;
	return set_flags(family, (void *)&guard->sets[guard->current & 1], addr);
}

static __always_inline __u32 cluster_flags(int family, const __be32 *addr)
{
	__u32 zero = 0;

	return flags_in_force(family, bpf_map_lookup_elem(&cluster_ranges, &zero), addr);
}

/* 0: no route of the node leads to a pod with this address. */
__noinline int may_be_pod(int family, const struct addr *addr)
{
	__u32 zero = 0;

	if (!addr)
		return 0;
	return flags_in_force(family_of(family), bpf_map_lookup_elem(&pod_ranges, &zero),
			      addr->word);
}

/* What becomes of that which is for no frontend. */
static __always_inline enum verdict cluster_verdict(int family, const __be32 *addr)
{
	__u32 flags = cluster_flags(family, addr);
	const __u8 *owner;

	note_cluster(flags, 0);
	if (!flags)
		return VERDICT_NOT_OURS;
	owner = cluster_addr_lookup(family, addr);
	note_cluster(flags, owner ? *owner : 0);
	if (owner)
		return *owner == CLUSTER_ADDR_OTHERS ? VERDICT_NOT_OURS : VERDICT_REFUSED;
	return flags & CLUSTER_RANGE_DROP ? VERDICT_DROP_UNALLOCATED : VERDICT_NOT_OURS;
}

#endif
