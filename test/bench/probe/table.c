//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * The flow table alone, beside the kernel's tables: each packet is one lookup, or
 * the two insertions of a new flow, and nothing else. This file stands by itself,
 * so that a table can be measured before the datapath uses it.
 */

#include "bare.h"
#include "own.h"

BARE_TABLE(hash, BPF_MAP_TYPE_HASH, 4);
BARE_TABLE(hash, BPF_MAP_TYPE_HASH, 6);
BARE_TABLE(lru, BPF_MAP_TYPE_LRU_HASH, 4);
BARE_TABLE(lru, BPF_MAP_TYPE_LRU_HASH, 6);

/* The datapath's own, which is in flows4 and flows6. */
static __always_inline bool own_find(int family, const struct tuple *t)
{
	struct record r;
	bool found = flow_find(family, t, &r);

	/* the copy is made in full */
	asm volatile("" : : "r"(&r) : "memory");
	return found;
}

/* A record like those of established flows. */
static __always_inline void own_put(int family, const struct tuple *t)
{
	struct own_memory *m = own_memory();

	if (!m)
		return;
	m->entry.key = *t;
	m->entry.record = (struct record){ .to = *t, .state = STATE_ANSWERED | STATE_CONFIRMED };
	own_replace(family, m);
}

/* A record of a flow that is new: the key is known to have none. */
static __always_inline void own_claim(int family, const struct tuple *t)
{
	struct own_memory *m = own_memory();

	if (!m)
		return;
	m->entry.key = *t;
	m->entry.record = (struct record){ .to = *t };
	if (flow_claim(family, &m->entry.key, &m->entry.record, SPARE_NONE, &m->work) !=
	    SETTLED_OWNER)
		driven.failed++;
}

static __always_inline void own_remove_one(int family, const struct tuple *t)
{
	struct own_memory *m = own_memory();

	if (!m)
		return;
	m->entry.key = *t;
	if (flow_lookup(family, &m->entry.key, &m->entry.record))
		own_end(family, &m->entry);
}

/* One program for each family that does `does` with the packet's tuple. */
#define ONE_TUPLE(name, does)                                           \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		struct tuple t;                                         \
                                                                        \
		if (!tuple_of(family, ctx, &t))                         \
			return XDP_ABORTED;                             \
		does;                                                   \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

/* The same, with the tuples of both records of the packet's flow. */
#define TWO_TUPLES(name, does)                                          \
	static __always_inline int name(int family, struct xdp_md *ctx) \
	{                                                               \
		struct tuple t, back;                                   \
                                                                        \
		if (!tuple_of(family, ctx, &t))                         \
			return XDP_ABORTED;                             \
		tuple_reverse(family, &t, ZONE_OUTSIDE, &back);         \
		does(family, &back);                                    \
		does(family, &t);                                       \
		return XDP_PASS;                                        \
	}                                                               \
	BOTH_FAMILIES(name)

ONE_TUPLE(own_fill, own_put(family, &t))
ONE_TUPLE(own_hit, MISSED_IF(!own_find(family, &t)))
ONE_TUPLE(own_miss, FAILED_IF(own_find(family, &t)))
TWO_TUPLES(own_insert, own_claim)
TWO_TUPLES(own_remove, own_remove_one)

/* The kernel's tables, in the same way. */
#define TABLE_FIND(table) bpf_map_lookup_elem(BARE_OF(table, family), &key)
#define TABLE_PUT(table, flags) bare_put(family, BARE_OF(table, family), &key, flags)
#define TABLE_END(table) bpf_map_delete_elem(BARE_OF(table, family), &key)

#define LOOKUPS(table)                                                   \
	ONE_BARE_KEY(table##_fill, FAILED_IF(TABLE_PUT(table, BPF_ANY))) \
	ONE_BARE_KEY(table##_hit, MISSED_IF(!TABLE_FIND(table)))         \
	ONE_BARE_KEY(table##_miss, FAILED_IF(TABLE_FIND(table)))

LOOKUPS(hash)
LOOKUPS(lru)
TWO_BARE_KEYS(lru_insert, FAILED_IF(TABLE_PUT(lru, BPF_NOEXIST)),
	      FAILED_IF(TABLE_PUT(lru, BPF_ANY)))
TWO_BARE_KEYS(lru_remove, TABLE_END(lru), TABLE_END(lru))

/* What all of them cost beside the table: to read the key. */
ONE_TUPLE(own_key, asm volatile("" : : "r"(&t) : "memory"))
ONE_BARE_KEY(hash_key, asm volatile("" : : "r"(&key) : "memory"))

char _license[] SEC("license") = "GPL";
