/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_FLOWTABLE_H
#define WAGGLE_FLOWTABLE_H

#include <linux/errno.h>
#include "config.h"
#include "runtime.h"
#include "tuple.h"

/*
 * The flow table: tuple -> rewrite, in which nothing moves. One for each
 * family: an array of sets. A set is a cache line of eight tags and eight
 * records. A key's hash names up to four sets, its choices. Its record is in
 * any way of any of them. A reader looks at the next choice only if `spilled`
 * of this one says that some record had to go further.
 *
 * A way's tag says all that several processors have to agree on:
 *
 *   FREE     not in use
 *   BUSY     one processor has it, and writes the record
 *   OFFERED  the record is complete, but another of the same key may win
 *   LIVE     this is the record of its key
 *
 * and also the flow's state, so that each change of a flow's state is one
 * compare-and-swap. A version distinguishes one tenant of a way from the next.
 *
 *   prepare  FREE or a record that may be replaced -> BUSY
 *   settle   Write the record. -> OFFERED. A full barrier. Look for twins, records
 *            of the same key. A LIVE twin wins. Of two that are OFFERED the one at the
 *            lower place wins: a processor that sees both frees the other, and goes on
 *            in the place of the winner's owner. No twin: -> LIVE.
 *   mark     sets bits of the state (confirm, close, ...) under the version
 *   release  LIVE -> FREE, if nothing of the tag has changed since it was judged
 *
 * No step waits for another processor: the loser of a race finds the winner's
 * record complete. test/model/flowtable.pml is this protocol as a checker
 * explores it.
 *
 * Invariants:
 *   - A tuple has one owner: no two LIVE records have the same key.
 *   - A confirmed record is not replaced before it has expired.
 *   - A reader never acts on another flow's record: it copies the record, then
 *     looks at the tag again. A late writer does not either: each member that
 *     changes is written by a compare-and-swap with what was read. (last_seen
 *     is not, and needs not be: whose place was taken was seen just now.)
 *   - A flow that was found is found by every processor until it ends, or,
 *     while it is not confirmed, until it is replaced.
 *   - `spilled` counts the records that are BUSY, OFFERED or LIVE in a later
 *     choice, so it is never too small.
 */
#define WAYS 8
#define CHOICES 4

/* The bits of a tag. The states are the flow's. */
enum flow_tag {
	WAY_FREE = 0,
	WAY_BUSY = 1,
	WAY_OFFERED = 2,
	WAY_LIVE = 3,
	WAY_MASK = 3,
	STATE_ANSWERED = 1 << 2, /* the backend has sent something back */
	STATE_CONFIRMED = 1 << 3, /* the client has acknowledged that */
	STATE_FIN_CLIENT = 1 << 4,
	STATE_FIN_BACKEND = 1 << 5,
	STATE_RESET = 1 << 6,
	STATE_FINS = STATE_FIN_CLIENT | STATE_FIN_BACKEND,
	STATE_MASK = 31 << 2,
	TAG_CHOICE = 1 << 7, /* 2 bits: which choice of its key the set is */
	TAG_CHOICE_MASK = 3 << 7,
	TAG_VERSION = 1 << 9, /* 8 bits: stays when the way is freed */
	TAG_VERSION_MASK = 255 << 9,
	TAG_HASH = 1 << 17, /* 15 bits */
};

#define TAG_HASH_MASK (-(__u32)TAG_HASH)
/* What all tags of one record have in common while it is LIVE. */
#define TAG_IDENTITY (TAG_HASH_MASK | TAG_VERSION_MASK | TAG_CHOICE_MASK | WAY_MASK)

struct flow_ways {
	__u32 tag[WAYS];
	__u16 used[WAYS]; /* `ticks` when an unconfirmed record was used last */
	__u32 spilled; /* records that passed this set on the way to a later choice */
	__u32 ticks; /* counts uses of unconfirmed records */
	__u32 datagrams; /* of the first set: see flow_note_datagrams() */
	__u32 pad;
};

/*
 * What both families' records begin with. From `sport` on it is the key, see
 * struct tuple, but for `flags`. Network byte order for addresses and ports.
 */
struct flow {
	__u64 hop; /* generation << 32 | version << 24 | index, see nexthop.h */
	__u32 service; /* id, for counting and display only */
	__u32 backend;
	__u32 last_seen; /* jiffies, the lower half */
	__u32 expect; /* STATE_ANSWERED: what acknowledges the SYN-ACK or INIT ACK */
	__u64 traffic; /* counted and not folded yet: packets << 40 | bytes, see stats.h */
	__u32 begun; /* of a reply: microseconds, when the SYN came; 0: it was answered, or there was none */
	__be16 to_sport; /* the rewrite's ports */
	__be16 to_dport;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 zone; /* enum zone */
	__u16 flags; /* enum flow_flags */
};

struct flow4 {
	struct flow flow;
	__be32 saddr;
	__be32 daddr;
	__be32 to_saddr;
	__be32 to_daddr;
};

/* Two lines exactly, so that none has a part in a third. */
struct flow6 {
	struct flow flow;
	__be32 saddr[4];
	__be32 daddr[4];
	__be32 to_saddr[4];
	__be32 to_daddr[4];
	__u32 pad[4];
};

struct flow_set4 {
	struct flow_ways ways;
	struct flow4 at[WAYS];
};

struct flow_set6 {
	struct flow_ways ways;
	struct flow6 at[WAYS];
};

_Static_assert(sizeof(struct flow_ways) == 64, "the tags of a set are a cache line");
_Static_assert(sizeof(struct flow4) == 64, "an IPv4 record is a cache line");
_Static_assert(sizeof(struct flow6) == 128, "an IPv6 record is two cache lines");

/* Flows of two records each, at a load of one half. The values of a map that can be mapped to
 * memory begin at a page; others begin in the middle of a cache line.
 */
#define DEFAULT_FLOWS 131072
#define SETS_OF(flows) ((flows) / (WAYS / 4))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETS_OF(DEFAULT_FLOWS));
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_set4);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETS_OF(DEFAULT_FLOWS));
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_set6);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows6 SEC(".maps");

/* max_entries of the two, set by the loader. */
volatile const __u32 flow_sets4 = SETS_OF(DEFAULT_FLOWS);
volatile const __u32 flow_sets6 = SETS_OF(DEFAULT_FLOWS);

/* Whether the processor may show a later access before an earlier one, as x86 does not. */
volatile const bool weakly_ordered = true;

/* A record outside of the table: a copy of one, or what is to become one. */
struct record {
	__u64 hop;
	__u32 where; /* set * WAYS + way */
	__u32 tag; /* as it was when the copy was made */
	__u32 service;
	__u32 backend;
	__u32 last_seen;
	__u32 expect;
	__u32 time; /* jiffies, before the copy was made */
	__u32 state; /* of a record that is to be made: STATE_* */
	struct tuple to; /* the rewrite; protocol and zone are the key's */
	__u16 flags; /* enum flow_flags */
	__u16 pad[3];
};

/* A record with its key. */
struct entry {
	struct tuple key;
	struct record record;
};

/* The upper part of the word that holds a record's ports is no part of the key. */
#define KEY_WORD 0xffffffffffffULL
/* Nor is the zone a part of what chooses the first set. */
#define ZONELESS_WORD 0xffffffffffULL
#define FLAGS_SHIFT 48

#define HASH_ZONE 0x8001 /* what a zone changes of a hash, times its number */

/*
 * Which sets a key may be in is a secret: a stranger must not be able to fill one.
 * A packet is looked up in one zone where it enters the node and in another where
 * it leaves. Both keys have the same first choice, which is in the caches by the
 * second time. The zone is in the lower half of the hash only: it differs by tag and way.
 */
static __always_inline __u64 tuple_hash(int family, const struct tuple *t)
{
	const __u32 *word = t->saddr.word;
	__u64 hash = flows_seed() ^ (tuple_word(t) & ZONELESS_WORD);

	hash *= 0x9e3779b97f4a7c15;
	hash ^= hash >> 32;
	hash ^= word[0] | (__u64)t->daddr.word[0] << 32;
	hash *= 0x9e3779b97f4a7c15;
	if (family != AF_INET) {
		hash ^= hash >> 32;
		hash ^= word[1] | (__u64)word[2] << 32;
		hash *= 0x9e3779b97f4a7c15;
		hash ^= hash >> 32;
		hash ^= word[3] | (__u64)t->daddr.word[1] << 32;
		hash *= 0x9e3779b97f4a7c15;
		hash ^= hash >> 32;
		hash ^= t->daddr.word[2] | (__u64)t->daddr.word[3] << 32;
		hash *= 0x9e3779b97f4a7c15;
	}
	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93;
	return hash ^ hash >> 32 ^ t->zone * HASH_ZONE;
}

/* What the hash of a tuple of one zone is in another. */
static __always_inline __u64 hash_in_zone(__u64 hash, enum zone from, enum zone to)
{
	return hash ^ (from ^ to) * HASH_ZONE;
}

static __always_inline __u32 hash_tag(__u64 hash)
{
	return (__u32)hash << 17;
}

/* The way where a key's record is looked for first: the processor can fetch it with the tags. */
static __always_inline __u32 hash_way(__u64 hash)
{
	return hash >> 15 & (WAYS - 1);
}

/* The set that is a key's choice number so and so. */
static __always_inline __u32 hash_set(int family, __u64 hash, __u32 choice)
{
	__u32 sets = family == AF_INET ? flow_sets4 : flow_sets6;

	if (choice) { /* mixed so well that no two choices of many keys are equal */
		hash = (hash ^ choice * 0xa0761d6478bd642fULL) * 0x9e3779b97f4a7c15;
		hash ^= hash >> 32;
		hash *= 0xd6e8feb86659fd93;
	}
	return (hash >> 32) * sets >> 32;
}

static __always_inline struct flow_ways *flow_set(int family, __u32 index)
{
	struct flow_ways *set;

	/* the two calls stay apart: one that takes either map is not inlined by the kernel */
	if (family == AF_INET) {
		set = bpf_map_lookup_elem(&flows4, &index);
		asm volatile("" : "+r"(set) : "i"(AF_INET));
		return set;
	}
	set = bpf_map_lookup_elem(&flows6, &index);
	asm volatile("" : "+r"(set) : "i"(AF_INET6));
	return set;
}

/*
 * That the table has, or has had, flows of datagrams that keep their source: only
 * then need a datagram that has no record be looked at once more. It is never
 * taken back, and lives as long as the records do.
 */
static __always_inline void flow_note_datagrams(int family)
{
	struct flow_ways *first = flow_set(family, 0);

	if (first && !first->datagrams && !explain)
		first->datagrams = 1;
}

static __always_inline bool flow_has_datagrams(int family)
{
	const struct flow_ways *first = flow_set(family, 0);

	return first && first->datagrams;
}

static __always_inline struct flow *way_flow(int family, const struct flow_ways *set, __u32 way)
{
	if (family == AF_INET)
		return (void *)&((struct flow_set4 *)set)->at[way & (WAYS - 1)];
	return (void *)&((struct flow_set6 *)set)->at[way & (WAYS - 1)];
}

static __always_inline __u32 tag_read(const struct flow_ways *set, __u32 way)
{
	return *(const volatile __u32 *)&set->tag[way & (WAYS - 1)];
}

/* NULL only for the verifier's sake. */
static __always_inline __u32 *tag_at(int family, __u32 where)
{
	struct flow_ways *set = flow_set(family, where / WAYS);

	if (!set)
		return NULL;
	/* here and not before: the verifier refuses an addition to NULL */
	asm volatile("" : "+r"(set));
	return &set->tag[where & (WAYS - 1)];
}

static __always_inline struct flow *flow_at(int family, __u32 where)
{
	struct flow_ways *set = flow_set(family, where / WAYS);

	if (!set)
		return NULL;
	asm volatile("" : "+r"(set));
	return way_flow(family, set, where);
}

static __always_inline __u64 flow_word(const struct flow *f)
{
	return *(const volatile __u64 *)&f->sport;
}

static __always_inline bool key_equal(int family, const struct flow *f, const struct tuple *t)
{
	const struct flow4 *v4 = (const void *)f;
	const struct flow6 *v6 = (const void *)f;

	if ((flow_word(f) ^ tuple_word(t)) & KEY_WORD)
		return false;
	if (family == AF_INET)
		return *(const __u64 *)&v4->saddr ==
		       (t->saddr.word[0] | (__u64)t->daddr.word[0] << 32);
	return addr_equal(family, v6->saddr, t->saddr.word) &&
	       addr_equal(family, v6->daddr, t->daddr.word);
}

static __always_inline void flow_copy(int family, const struct flow *f, struct record *r)
{
	const struct flow4 *v4 = (const void *)f;
	const struct flow6 *v6 = (const void *)f;
	__u64 word = flow_word(f);

	/* judged by a later time, a record could be dead that a packet has just found alive */
	r->time = now();
	asm volatile("" : : : "memory");
	r->hop = f->hop;
	r->service = f->service;
	r->backend = f->backend;
	r->last_seen = f->last_seen;
	r->expect = f->expect;
	r->flags = word >> FLAGS_SHIFT;
	tuple_set_word(&r->to, *(const __u32 *)&f->to_sport, word >> 32, word >> 40);
	if (family == AF_INET) {
		r->to.saddr.word[0] = v4->to_saddr;
		r->to.daddr.word[0] = v4->to_daddr;
	} else {
		addr_copy(family, r->to.saddr.word, v6->to_saddr);
		addr_copy(family, r->to.daddr.word, v6->to_daddr);
	}
	asm volatile("" : : : "memory");
}

/* A sum of all that a copy was made of. */
static __always_inline __u64 record_sum(int family, const struct record *r)
{
	__u64 sum = r->hop + r->service + r->backend + r->last_seen + r->expect + r->flags +
		    tuple_word(&r->to) + r->to.saddr.word[0] + r->to.daddr.word[0];

	if (family == AF_INET)
		return sum;
	return sum + r->to.saddr.word[1] + r->to.saddr.word[2] + r->to.saddr.word[3] +
	       r->to.daddr.word[1] + r->to.daddr.word[2] + r->to.daddr.word[3];
}

/*
 * Reads a tag after a record was copied. Where the processor could do it
 * before, the tag's place is made to depend on the copy: 0 of `sum` is added.
 */
static __always_inline __u32 tag_again(const struct flow_ways *set, __u32 way, __u64 sum)
{
	asm volatile("%0 &= 0" : "+r"(sum));
	return tag_read(set, way + sum);
}

/* Whether a way still holds the record that a copy was made of. */
static __always_inline bool record_stays(int family, const struct flow_ways *set, __u32 way,
					 const struct record *r)
{
	__u32 tag = weakly_ordered ? tag_again(set, way, record_sum(family, r))
				   : tag_read(set, way);

	return !((tag ^ r->tag) & TAG_IDENTITY);
}

/* Copies the record of a way whose tag is `tag`, if its key is `t` and it stays meanwhile. */
static __always_inline bool record_read(int family, const struct flow_ways *set, __u32 way,
					__u32 tag, const struct tuple *t, struct record *r)
{
	const struct flow *f = way_flow(family, set, way);

	if (!key_equal(family, f, t))
		return false;
	r->tag = tag;
	flow_copy(family, f, r);
	return record_stays(family, set, way, r);
}

/* Whether way number `i`, counted from hash_way(), is LIVE and has the hash of a key. */
static __always_inline bool tag_matches(const struct flow_ways *set, __u64 hash, __u32 i,
					__u32 *way, __u32 *tag)
{
	__u64 other;

	*way = (hash_way(hash) + i) & (WAYS - 1);
	*tag = tag_read(set, *way);
	other = (*tag ^ (hash_tag(hash) | WAY_LIVE)) & (TAG_HASH_MASK | WAY_MASK);
	if (other)
		return false;
	/* the record's place depends on its tag: it is read after the tag */
	asm volatile("" : "+r"(other));
	*way += other;
	return true;
}

/* As tuple_hash(), off the way of every packet. */
__noinline __u64 key_hash(int family, const struct tuple *t)
{
	if (!t)
		return 0;
	if (family == AF_INET)
		return tuple_hash(AF_INET, t);
	return tuple_hash(AF_INET6, t);
}

/* Finds a key's record in one set. 1: r is a copy of it; 0: none there; -1: no other set has it either. */
__noinline int set_find(int family, __u32 index, __u64 hash, const struct tuple *t,
			struct record *r)
{
	struct flow_ways *set;
	__u32 i, way;

	if (!t || !r)
		return -1;
	family = family_of(family);
	set = flow_set(family, index);
	if (!set)
		return -1;
	for (i = 0; i < WAYS; i++) {
		if (!tag_matches(set, hash, i, &way, &r->tag) ||
		    !record_read(family, set, way, r->tag, t, r))
			continue;
		r->where = index * WAYS + (way & (WAYS - 1));
		return 1;
	}
	return *(volatile __u32 *)&set->spilled ? 0 : -1;
}

/* Finds a record, from a choice on, by its key and the key's hash. Nonzero: r is a copy of it. */
static __always_inline int flow_find_from(int family, __u32 choice, __u64 hash,
					  const struct tuple *t, struct record *r)
{
	int found = 0;

	for (; choice < CHOICES && !found; choice++)
		found = set_find(family, hash_set(family, hash, choice), hash, t, r);
	return found > 0;
}

/* As flow_lookup(), by the key's hash, from a choice on. */
__noinline int flow_find_any(int family, __u32 choice, __u64 hash, const struct tuple *t,
			     struct record *r)
{
	return t && r ? flow_find_from(family, choice, hash, t, r) : 0;
}

/*
 * As flow_lookup(), by the key's hash, for who will make a record if there is none: while it waits
 * for the tags, the processor fetches the place that the record will probably get, and that of
 * one that is prepared, at `prepared`. The loads stand together since the processor does
 * not look far beyond one that waits.
 */
__noinline int flow_find_or_fetch(int family, __u64 hash, const struct tuple *t, struct record *r,
				  __u32 prepared)
{
	struct flow *ours, *other;

	if (!t || !r)
		return 0;
	family = family_of(family);
	ours = flow_at(family, hash_set(family, hash, 0) * WAYS + hash_way(hash));
	other = flow_at(family, prepared);
	if (ours && other)
		asm volatile(""
			     :
			     : "r"(*(volatile __u64 *)&ours->hop),
			       "r"(*(volatile __u64 *)&other->hop));
	return flow_find_from(family, 0, hash, t, r);
}

/* The record of a tuple, dead or alive: r is a copy of it. */
static __always_inline bool flow_lookup(int family, const struct tuple *t, struct record *r)
{
	return flow_find_any(family, 0, key_hash(family, t), t, r);
}

/* As flow_lookup(), for the way of every packet: the family is a constant. */
static __always_inline bool flow_find(int family, const struct tuple *t, struct record *r)
{
	__u64 hash = tuple_hash(family, t);
	__u32 index = hash_set(family, hash, 0);
	struct flow_ways *set = flow_set(family, index);
	__u32 i, way, tag;

	if (!set)
		return false;
	for (i = 0; i < WAYS; i++)
		if (tag_matches(set, hash, i, &way, &tag))
			break;
	if (i == WAYS)
		return *(volatile __u32 *)&set->spilled && flow_find_any(family, 1, hash, t, r);
	r->where = index * WAYS + (way & (WAYS - 1));
	if (record_read(family, set, way, tag, t, r))
		return true;
	/* another key with the same hash, or it went just now */
	return flow_find_any(family, 0, hash, t, r);
}

/*
 * Reads whatever record is in a way. False: none is, or it went meanwhile.
 * For walks over the table.
 */
__noinline int flow_read_way(int family, __u32 where, struct tuple *t, struct record *r)
{
	const struct flow6 *v6;
	const struct flow4 *v4;
	struct flow_ways *set;
	__u64 word, other;
	struct flow *f;
	__u32 tag;

	if (!t || !r)
		return 0;
	family = family_of(family);
	set = flow_set(family, where / WAYS);
	if (!set)
		return 0;
	asm volatile("" : "+r"(set));
	tag = tag_read(set, where);
	other = (tag & WAY_MASK) ^ WAY_LIVE;
	if (other)
		return 0;
	/* as in tag_matches(): the record is read after the tag */
	asm volatile("" : "+r"(other));
	f = way_flow(family, set, where + other);
	v4 = (void *)f;
	v6 = (void *)f;
	r->where = where;
	r->tag = tag;
	word = flow_word(f);
	tuple_set_word(t, word, word >> 32, word >> 40);
	if (family == AF_INET) {
		t->saddr.word[0] = v4->saddr;
		t->daddr.word[0] = v4->daddr;
	} else {
		addr_copy(family, t->saddr.word, v6->saddr);
		addr_copy(family, t->daddr.word, v6->daddr);
	}
	flow_copy(family, f, r);
	return record_stays(family, set, where & (WAYS - 1), r);
}

/* Sets bits of a flow's state. Returns the tag before, which is not 0. 0: the record is gone. */
__noinline int flow_mark(int family, __u32 where, __u32 tag, __u32 bits)
{
	__u32 *at = tag_at(family_of(family), where);
	__u32 i, seen;

	if (!at)
		return 0;
	if (explain) /* also of a record that would have been made just now */
		return tag | WAY_LIVE;
	/* the others change it at most once for each bit */
	for (i = 0; i < 8; i++) {
		seen = *(volatile __u32 *)at;
		if ((seen ^ tag) & TAG_IDENTITY)
			return 0;
		if ((seen & bits) == bits ||
		    __sync_val_compare_and_swap(at, seen, seen | bits) == seen)
			return seen;
	}
	return 0;
}

/* The same of the record that a copy was made of, and of the copy. */
static __always_inline bool record_mark(int family, struct record *r, __u32 bits)
{
	if (!flow_mark(family, r->where, r->tag, bits))
		return false;
	r->tag |= bits;
	return true;
}

/*
 * Whether a record's set would have no way left for other flows, if this record
 * and those at `second` and `third` were confirmed. Processors that confirm
 * flows at the same instant may fill it none the less.
 */
__noinline int flow_crowded(int family, __u32 where, __u32 second, __u32 third)
{
	struct flow_ways *set = flow_set(family_of(family), where / WAYS);
	__u32 first = where & ~(WAYS - 1);
	__u32 way, at, confirmed = 0;

	if (!set)
		return 1;
	for (way = 0; way < WAYS; way++) {
		at = first + way;
		if (at == where || at == second || at == third ||
		    tag_read(set, way) & STATE_CONFIRMED)
			confirmed++;
	}
	return confirmed == WAYS;
}

/* An unconfirmed record was used: others shall give way before it does. */
static __always_inline void flow_touch(int family, __u32 where)
{
	struct flow_ways *set = flow_set(family, where / WAYS);

	if (!set || explain)
		return;
	asm volatile("" : "+r"(set));
	if (set->used[where & (WAYS - 1)] != (__u16)set->ticks)
		set->used[where & (WAYS - 1)] = ++set->ticks;
}

/* It was made just now. */
static __always_inline void flow_touch_new(int family, __u32 where)
{
	struct flow_ways *set = flow_set(family, where / WAYS);

	if (!set || explain)
		return;
	asm volatile("" : "+r"(set));
	set->used[where & (WAYS - 1)] = ++set->ticks;
}

/* A packet was seen. Harmless to a record that has taken the place of this one: see above. */
static __always_inline void flow_seen(int family, const struct record *r)
{
	struct flow *f = flow_at(family, r->where);

	if (f && !explain)
		f->last_seen = now();
}

/* Replaces what a copy says is acknowledged next; nothing if it is no longer so. */
static __always_inline void flow_expect(int family, const struct record *r, __u32 expect)
{
	struct flow *f = flow_at(family, r->where);

	if (f && !explain)
		__sync_val_compare_and_swap(&f->expect, r->expect, expect);
}

/* A record's next hop holds the version of its tag: no two tenants of a way have an equal one. */
#define HOP_INDEX_MASK 0xffffffULL
#define HOP_VERSION_SHIFT 24

static __always_inline __u64 hop_stamp(__u64 hop, __u32 tag)
{
	__u64 version = (tag & TAG_VERSION_MASK) / TAG_VERSION;

	return (hop & ~(255ULL << HOP_VERSION_SHIFT)) | version << HOP_VERSION_SHIFT;
}

/* Replaces the next hop that a copy has; nothing if it is no longer so. */
static __always_inline void flow_set_hop(int family, struct record *r, __u64 hop)
{
	struct flow *f = flow_at(family, r->where);

	hop = hop_stamp(hop, r->tag);
	if (f && !explain)
		__sync_val_compare_and_swap(&f->hop, r->hop, hop);
	r->hop = hop;
}

/* Records of a key went to a later choice than its first, or came from there. */
__noinline int spilled_count(int family, __u64 hash, __u32 choice, int records)
{
	struct flow_ways *set;
	__u32 i;

	family = family_of(family);
	for (i = 0; i < CHOICES - 1; i++) {
		/* else the compiler joins both bounds, and the verifier of Linux 6.1 sees no end */
		asm volatile("" : "+r"(choice));
		if (i >= choice)
			break;
		set = flow_set(family, hash_set(family, hash, i));
		if (set)
			__sync_fetch_and_add(&set->spilled, records);
	}
	return 0;
}

/* The most are in their first choice. */
static __always_inline void spilled_add(int family, __u64 hash, __u32 choice, int records)
{
	if (choice)
		spilled_count(family, hash, choice, records);
}

static __always_inline __u32 tag_choice(__u32 tag)
{
	return (tag & TAG_CHOICE_MASK) / TAG_CHOICE;
}

/* See trace.h. */
int note_freed(__u32 where);

/* See stats.h. */
int flow_fold(int family, __u32 where);

/* Frees a way whose tag is exactly this. 0: it no longer is. */
static __always_inline bool way_free(int family, __u64 hash, __u32 where, __u32 tag)
{
	__u32 *at = tag_at(family, where);

	if (!at || __sync_val_compare_and_swap(at, tag, tag & TAG_VERSION_MASK) != tag)
		return false;
	spilled_add(family, hash, tag_choice(tag), -1);
	return true;
}

/* Ends a record, if nothing of its tag has changed since it was read. 0: it has. */
__noinline int flow_release(int family, const struct tuple *t, __u32 where, __u32 tag)
{
	if (!t)
		return 0;
	flow_fold(family, where);
	if (explain)
		return note_freed(where);
	family = family_of(family);
	return way_free(family, key_hash(family, t), where, tag);
}

/* Ends a record whatever its state is by now. */
__noinline int flow_end(int family, const struct tuple *t, __u32 where, __u32 tag)
{
	__u32 *at, i, seen;
	__u64 hash;

	if (!t)
		return 0;
	flow_fold(family, where);
	if (explain)
		return note_freed(where);
	hash = key_hash(family, t);
	family = family_of(family);
	at = tag_at(family, where);
	if (!at)
		return 0;
	/* the others change it at most once for each bit of the state */
	for (i = 0; i < 8; i++) {
		seen = *(volatile __u32 *)at;
		if ((seen ^ tag) & TAG_IDENTITY || way_free(family, hash, where, seen))
			break;
	}
	return 0;
}

#endif
