/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_BENCH_BARE_H
#define WAGGLE_BENCH_BARE_H

/*
 * Keys and values of the kernel's tables that waggle's own is compared with.
 * They stay as they are when waggle's change: so do the limits.
 */

#include "drive.h"

struct bare_key4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

struct bare_key6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

union bare_key {
	struct bare_key4 v4;
	struct bare_key6 v6;
};

struct bare_value4 {
	__u64 word[7];
};

struct bare_value6 {
	__u64 word[10];
};

_Static_assert(sizeof(struct bare_key4) == 16, "an IPv4 key has 16 bytes");
_Static_assert(sizeof(struct bare_key6) == 40, "an IPv6 key has 40 bytes");

/* What the records hold. It is never read. */
struct bare_value4 value4;
struct bare_value6 value6;

static __always_inline bool bare_key4(struct xdp_md *ctx, bool answer, struct bare_key4 *key)
{
	struct frame4 *f = (void *)(long)ctx->data;

	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return false;
	*key = (struct bare_key4){
		.saddr = answer ? f->ip.daddr : f->ip.saddr,
		.daddr = answer ? f->ip.saddr : f->ip.daddr,
		.sport = answer ? f->tcp.dest : f->tcp.source,
		.dport = answer ? f->tcp.source : f->tcp.dest,
		.proto = f->ip.protocol,
	};
	return true;
}

static __always_inline bool bare_key6(struct xdp_md *ctx, bool answer, struct bare_key6 *key)
{
	struct frame6 *f = (void *)(long)ctx->data;
	const __be32 *saddr, *daddr;

	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return false;
	saddr = f->ip.saddr.in6_u.u6_addr32;
	daddr = f->ip.daddr.in6_u.u6_addr32;
	addr_copy(AF_INET6, key->saddr, answer ? daddr : saddr);
	addr_copy(AF_INET6, key->daddr, answer ? saddr : daddr);
	key->sport = answer ? f->tcp.dest : f->tcp.source;
	key->dport = answer ? f->tcp.source : f->tcp.dest;
	key->proto = f->ip.nexthdr;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
	return true;
}

/* The key of a packet, or of its answer. */
static __always_inline bool bare_key(int family, struct xdp_md *ctx, bool answer,
				     union bare_key *key)
{
	return family == AF_INET ? bare_key4(ctx, answer, &key->v4)
				 : bare_key6(ctx, answer, &key->v6);
}

/* One program for each family that does `does` with the packet's key. */
#define ONE_BARE_KEY(name, does)                                        \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		union bare_key key;                                     \
                                                                        \
		if (!bare_key(family, ctx, false, &key))                \
			return XDP_ABORTED;                             \
		does;                                                   \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

/* The same, with the keys of both records of the packet's flow, the answer's first. */
#define TWO_BARE_KEYS(name, does_answer, does)                          \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		union bare_key key;                                     \
                                                                        \
		if (!bare_key(family, ctx, true, &key))                 \
			return XDP_ABORTED;                             \
		does_answer;                                            \
		if (!bare_key(family, ctx, false, &key))                \
			return XDP_ABORTED;                             \
		does;                                                   \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

#define BARE_TABLE(name, kind, family)                    \
	struct {                                          \
		__uint(type, kind);                       \
		__uint(max_entries, 16);                  \
		__type(key, struct bare_key##family);     \
		__type(value, struct bare_value##family); \
	} name##family SEC(".maps")

/* That of a family, which is a constant. */
#define BARE_OF(name, family) ((family) == AF_INET ? (void *)&name##4 : (void *)&name##6)

static __always_inline int bare_put(int family, void *table, const union bare_key *key, __u64 flags)
{
	const void *value = family == AF_INET ? (void *)&value4 : (void *)&value6;

	return bpf_map_update_elem(table, key, value, flags);
}

#endif
