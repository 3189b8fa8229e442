/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_NEWFLOWS_H
#define WAGGLE_NEWFLOWS_H

#include "record.h"
#include "runtime.h"
#include <linux/errno.h>

/*
 * Flows that are not confirmed: a cache of sets, as a processor's. A key's
 * hash names the one set that its record can be in. The tags of a set, a cache
 * line, tell which of its ways to look at, if any. A new record takes the
 * place of one that was not asked for since the hand came by (CLOCK).
 *
 * So a stranger's packet waits once for memory for each record that it makes.
 * In a kernel's LRU hash it waits for the bucket, the free element, those
 * behind it, and the bucket of each that is evicted.
 *
 * There is no lock. Whoever writes a record puts its tag there first, with
 * TAG_BUSY, and then looks whether another one does the same at this moment: of
 * two that make a record of one key, at least one sees the other, and gives up.
 */
#define WAYS 8

enum way_tag {
	TAG_FREE = 0,
	TAG_BUSY = 1, /* the record is being written */
};

struct flow_ways {
	__u32 tag[WAYS]; /* of the key's hash, even; see enum way_tag */
	__u8 used[WAYS]; /* since the hand came by */
	__u32 hand; /* the next way to be taken */
	__u32 pad[5];
};

struct new_flow4 {
	struct flow_key4 key;
	struct flow4 flow;
};

struct new_flow6 {
	struct flow_key6 key;
	struct flow6 flow;
};

struct flow_set4 {
	struct flow_ways ways;
	struct new_flow4 at[WAYS];
};

struct flow_set6 {
	struct flow_ways ways;
	struct new_flow6 at[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct flow_set4);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows_new4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct flow_set6);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows_new6 SEC(".maps");

/* max_entries of the two, set by the loader. */
volatile const __u32 flows_new_sets4 = 8192;
volatile const __u32 flows_new_sets6 = 8192;

/* Whether the processor may show a later write before an earlier one, as x86 does not. */
volatile const bool weakly_ordered = true;

/* Where a key belongs. */
struct place {
	__u32 set;
	__u32 tag;
};

/* A key's size in words of 32 bits, an even number. */
static __always_inline int key_words(int family)
{
	return (family == AF_INET ? sizeof(struct flow_key4) : sizeof(struct flow_key6)) / 4;
}

/*
 * Nobody outside may know who shares a set with whom, and so evict a flow at
 * will: the seed makes that a secret.
 */
static __always_inline struct place place_of(int family, const void *key)
{
	__u32 sets = family == AF_INET ? flows_new_sets4 : flows_new_sets6;
	int i;
	__u64 hash = flows_seed();
	const __u32 *word = key;

#pragma unroll
	for (i = 0; i < key_words(family); i += 2) {
		hash ^= (__u64)word[i] << 32 | word[i + 1];
		hash *= 0x9e3779b97f4a7c15;
		hash ^= hash >> 32;
	}
	hash *= 0xd6e8feb86659fd93;
	hash ^= hash >> 32;
	return (struct place){
		.set = (hash >> 32) * sets >> 32,
		.tag = (__u32)hash < 2 ? 2 : (__u32)hash & ~TAG_BUSY,
	};
}

static __always_inline struct flow_ways *flow_set(int family, __u32 set)
{
	if (family == AF_INET)
		return bpf_map_lookup_elem(&flows_new4, &set);
	return bpf_map_lookup_elem(&flows_new6, &set);
}

static __always_inline void *way_key(int family, struct flow_ways *ways, __u32 way)
{
	if (family == AF_INET)
		return &((struct flow_set4 *)ways)->at[way].key;
	return &((struct flow_set6 *)ways)->at[way].key;
}

static __always_inline void *way_flow(int family, struct flow_ways *ways, __u32 way)
{
	if (family == AF_INET)
		return &((struct flow_set4 *)ways)->at[way].flow;
	return &((struct flow_set6 *)ways)->at[way].flow;
}

static __always_inline bool key_equal(int family, const void *a, const void *b)
{
	int i;
	const __u32 *x = a, *y = b;
	__u32 diff = 0;

#pragma unroll
	for (i = 0; i < key_words(family); i++)
		diff |= x[i] ^ y[i];
	return !diff;
}

static __always_inline bool way_holds(__u32 tag)
{
	return tag != TAG_FREE && !(tag & TAG_BUSY);
}

/* The way that holds a key; WAYS if none does. */
static __always_inline __u32 way_find(int family, struct flow_ways *ways, __u32 tag,
				      const void *key)
{
	__u32 i;

	for (i = 0; i < WAYS; i++) {
		__u64 other = ways->tag[i] ^ tag;
		__u32 way;

		if (other)
			continue;
		/* where a record is read depends on its tag: it is read after the tag */
		asm volatile("" : "+r"(other));
		way = (i + other) & (WAYS - 1);
		if (key_equal(family, way_key(family, ways, way), key))
			return way;
	}
	return WAYS;
}

/* Whether another way has the key, or will perhaps. */
static __always_inline bool way_twin(int family, struct flow_ways *ways, __u32 tag, const void *key,
				     __u32 way)
{
	__u32 i;

	for (i = 0; i < WAYS; i++) {
		if (i == way || (ways->tag[i] & ~TAG_BUSY) != tag)
			continue;
		if (ways->tag[i] & TAG_BUSY || key_equal(family, way_key(family, ways, i), key))
			return true;
	}
	return false;
}

/* The way for a new record: a free one, or one that nobody has asked for lately. */
__noinline int way_take(struct flow_ways *ways)
{
	__u32 i, way = 0;

	if (!ways)
		return 0;
	for (i = 0; i < WAYS; i++)
		if (ways->tag[i] == TAG_FREE)
			return i;
	for (i = 0; i < WAYS; i++) {
		way = (ways->hand + i) & (WAYS - 1);
		if (!ways->used[way] && !(ways->tag[way] & TAG_BUSY))
			break;
		ways->used[way] = 0;
	}
	ways->hand = way + 1;
	return way;
}

/* Where a key's record is, for new_flow_at(); -1: nowhere. */
static __always_inline int new_flow_find(int family, const void *key)
{
	struct place p = place_of(family, key);
	struct flow_ways *ways = flow_set(family, p.set);
	__u32 way;

	if (!ways)
		return -1;
	way = way_find(family, ways, p.tag, key);
	if (way == WAYS)
		return -1;
	if (!ways->used[way & (WAYS - 1)])
		ways->used[way & (WAYS - 1)] = 1;
	return p.set * WAYS + way;
}

__noinline int new_flow_find4(const struct flow_key4 *key)
{
	return key ? new_flow_find(AF_INET, key) : -1;
}

__noinline int new_flow_find6(const struct flow_key6 *key)
{
	return key ? new_flow_find(AF_INET6, key) : -1;
}

static __always_inline struct flow *new_flow_at(int family, __u32 where)
{
	struct flow_ways *ways = flow_set(family, where / WAYS);
	struct flow *f;

	if (!ways)
		return NULL;
	f = way_flow(family, ways, where & (WAYS - 1));
	/* here and not before, since the verifier lets nobody add to NULL */
	asm volatile("" : "+r"(f));
	return f;
}

static __always_inline struct flow *new_flow_get(int family, const union flow_key *key)
{
	return new_flow_at(family,
			   family == AF_INET ? new_flow_find4(&key->v4) : new_flow_find6(&key->v6));
}

/* Has the processor fetch what new_flow_find() would wait for. */
static __always_inline void new_flow_prefetch(int family, const void *key)
{
	struct flow_ways *ways = flow_set(family, place_of(family, key).set);

	if (ways)
		asm volatile("" : : "r"(*(volatile __u32 *)&ways->tag[0]));
}

static __always_inline int new_flow_delete(int family, const void *key)
{
	int where = family == AF_INET ? new_flow_find4(key) : new_flow_find6(key);
	struct place p = place_of(family, key);
	struct flow_ways *ways = flow_set(family, p.set);

	if (where >= 0 && ways)
		__sync_val_compare_and_swap(&ways->tag[where & (WAYS - 1)], p.tag, TAG_FREE);
	return 0;
}

__noinline int new_flow_delete4(const struct flow_key4 *key)
{
	return key ? new_flow_delete(AF_INET, key) : 0;
}

__noinline int new_flow_delete6(const struct flow_key6 *key)
{
	return key ? new_flow_delete(AF_INET6, key) : 0;
}

/* The record is written before its tag. A locked instruction would wait until it is. */
static __always_inline void tag_publish(__u32 *at, __u32 tag)
{
	if (weakly_ordered)
		__sync_lock_test_and_set(at, tag);
	else
		*(volatile __u32 *)at = tag;
}

/*
 * As bpf_map_update_elem(). -EBUSY: another CPU writes there at this moment. If
 * it writes the same key, it is as if it had come after us, or with BPF_NOEXIST
 * before.
 */
static __always_inline int new_flow_put(int family, const void *key, const void *flow, bool noexist)
{
	int where = family == AF_INET ? new_flow_find4(key) : new_flow_find6(key);
	struct place p = place_of(family, key);
	struct flow_ways *ways = flow_set(family, p.set);
	__u32 way, tag;

	if (!ways)
		return -ENOENT;
	if (where >= 0 && noexist)
		return -EEXIST;
	way = (where >= 0 ? where : way_take(ways)) & (WAYS - 1);
	tag = ways->tag[way];
	if (tag & TAG_BUSY ||
	    __sync_val_compare_and_swap(&ways->tag[way], tag, p.tag | TAG_BUSY) != tag)
		return -EBUSY;
	if (way_twin(family, ways, p.tag, key, way)) {
		tag_publish(&ways->tag[way], TAG_FREE);
		return noexist ? -EEXIST : 0;
	}
	ways->used[way] = 0;
	if (family == AF_INET) {
		*(struct flow_key4 *)way_key(family, ways, way) = *(const struct flow_key4 *)key;
		*(struct flow4 *)way_flow(family, ways, way) = *(const struct flow4 *)flow;
	} else {
		*(struct flow_key6 *)way_key(family, ways, way) = *(const struct flow_key6 *)key;
		*(struct flow6 *)way_flow(family, ways, way) = *(const struct flow6 *)flow;
	}
	tag_publish(&ways->tag[way], p.tag);
	return 0;
}

__noinline int new_flow_put4(const struct flow_key4 *key, const struct flow4 *flow, int noexist)
{
	return key && flow ? new_flow_put(AF_INET, key, flow, noexist) : -EINVAL;
}

__noinline int new_flow_put6(const struct flow_key6 *key, const struct flow6 *flow, int noexist)
{
	return key && flow ? new_flow_put(AF_INET6, key, flow, noexist) : -EINVAL;
}

#endif
