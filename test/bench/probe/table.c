//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * The flow table alone, beside the kernel's tables: each packet is one lookup, or
 * the two insertions of a new flow, and nothing else. This file stands by itself,
 * so that a table can be measured before the datapath uses it.
 */

#include "drive.h"
#include "../../../bpf/newflows.h"

/* What the records hold. Nobody reads it. */
struct flow4 value4;
struct flow6 value6;

#define TABLE(name, kind, family)                     \
	struct {                                      \
		__uint(type, kind);                   \
		__uint(max_entries, 16);              \
		__type(key, struct flow_key##family); \
		__type(value, struct flow##family);   \
	} name##family SEC(".maps")

TABLE(own, BPF_MAP_TYPE_HASH, 4);
TABLE(own, BPF_MAP_TYPE_HASH, 6);
TABLE(hash, BPF_MAP_TYPE_HASH, 4);
TABLE(hash, BPF_MAP_TYPE_HASH, 6);
TABLE(lru, BPF_MAP_TYPE_LRU_HASH, 4);
TABLE(lru, BPF_MAP_TYPE_LRU_HASH, 6);

/* Each table: whether it has a record, and to put one there; 0: done. */

/*
 * The datapath's own: established flows are in a kernel's HASH, new ones in
 * flows_new. To measure another table, include its header, and call it here.
 */
static __always_inline bool own_find(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_lookup_elem(&own4, key);
	return bpf_map_lookup_elem(&own6, key);
}

static __always_inline int own_put(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_update_elem(&own4, key, &value4, BPF_ANY);
	return bpf_map_update_elem(&own6, key, &value6, BPF_ANY);
}

static __always_inline int own_claim(int family, const union flow_key *key, bool noexist)
{
	if (family == AF_INET)
		return new_flow_put4(&key->v4, &value4, noexist);
	return new_flow_put6(&key->v6, &value6, noexist);
}

/* The kernel's. */
static __always_inline bool hash_find(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_lookup_elem(&hash4, key);
	return bpf_map_lookup_elem(&hash6, key);
}

static __always_inline int hash_put(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_update_elem(&hash4, key, &value4, BPF_ANY);
	return bpf_map_update_elem(&hash6, key, &value6, BPF_ANY);
}

static __always_inline bool lru_find(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_lookup_elem(&lru4, key);
	return bpf_map_lookup_elem(&lru6, key);
}

static __always_inline int lru_put(int family, const union flow_key *key)
{
	if (family == AF_INET)
		return bpf_map_update_elem(&lru4, key, &value4, BPF_ANY);
	return bpf_map_update_elem(&lru6, key, &value6, BPF_ANY);
}

static __always_inline int lru_claim(int family, const union flow_key *key, bool noexist)
{
	__u64 flags = noexist ? BPF_NOEXIST : BPF_ANY;

	if (family == AF_INET)
		return bpf_map_update_elem(&lru4, key, &value4, flags);
	return bpf_map_update_elem(&lru6, key, &value6, flags);
}

/* The key of a packet, or of its answer. */
static __always_inline void make_key(int family, const struct tuple *t, bool answer,
				     union flow_key *key)
{
	const __be32 *saddr = answer ? t->daddr.word : t->saddr.word;
	const __be32 *daddr = answer ? t->saddr.word : t->daddr.word;
	__be16 sport = answer ? t->dport : t->sport, dport = answer ? t->sport : t->dport;

	if (family == AF_INET) {
		key->v4 = (struct flow_key4){ .saddr = saddr[0],
					      .daddr = daddr[0],
					      .sport = sport,
					      .dport = dport,
					      .proto = t->proto };
		return;
	}
	addr_copy(family, key->v6.saddr, saddr);
	addr_copy(family, key->v6.daddr, daddr);
	key->v6.sport = sport;
	key->v6.dport = dport;
	key->v6.proto = t->proto;
	key->v6.egress = 0;
	key->v6.pad = 0;
}

static __always_inline bool read_tuple(int family, struct xdp_md *ctx, struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return family == AF_INET ? tuple4(data, end, t) : tuple6(data, end, t);
}

/* One program for each family that does `does` with the packet's key. */
#define ONE_KEY(name, does)                                             \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		union flow_key key;                                     \
		struct tuple t;                                         \
                                                                        \
		if (!read_tuple(family, ctx, &t))                       \
			return XDP_ABORTED;                             \
		make_key(family, &t, false, &key);                      \
		does;                                                   \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

/* One program for each family that makes both records of a flow. */
#define TWO_KEYS(name, claim)                                           \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		union flow_key key;                                     \
		struct tuple t;                                         \
                                                                        \
		if (!read_tuple(family, ctx, &t))                       \
			return XDP_ABORTED;                             \
		make_key(family, &t, true, &key);                       \
		if (claim(family, &key, true))                          \
			driven.failed++;                                \
		make_key(family, &t, false, &key);                      \
		if (claim(family, &key, false))                         \
			driven.failed++;                                \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

#define BOTH_FAMILIES(name)                         \
	SEC("xdp") int name##4(struct xdp_md * ctx) \
	{                                           \
		return name(AF_INET, ctx);          \
	}                                           \
	SEC("xdp") int name##6(struct xdp_md * ctx) \
	{                                           \
		return name(AF_INET6, ctx);         \
	}

#define LOOKUPS(table)                                                         \
	ONE_KEY(table##_fill, if (table##_put(family, &key)) driven.failed++)  \
	ONE_KEY(table##_hit, if (!table##_find(family, &key)) driven.missed++) \
	ONE_KEY(table##_miss, if (table##_find(family, &key)) driven.failed++)

LOOKUPS(own)
LOOKUPS(hash)
LOOKUPS(lru)
TWO_KEYS(own_insert, own_claim)
TWO_KEYS(lru_insert, lru_claim)

/* What all of them cost beside the table: the tuple and its key. */
ONE_KEY(key, asm volatile("" : : "r"(&key) : "memory"))

char _license[] SEC("license") = "GPL";
