/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CLAIM_H
#define WAGGLE_CLAIM_H

#include "stats.h"
#include "trace.h"

/*
 * How a record gets into the table: the steps `prepare` and `settle` of
 * flowtable.h. No other file makes records.
 */

/* No way: nothing in reach may be replaced. */
#define NOWHERE (~0U)
/* No record that prepare() must spare. */
#define SPARE_NONE NOWHERE

/* Other processors can take what was chosen; so often it is chosen anew. */
#define CLAIM_TRIES 16

enum settled {
	SETTLED_OWNER, /* the record is the tuple's */
	SETTLED_LOST, /* another record is: look it up */
};

/* A way, and its tag when it was chosen. */
struct choice {
	__u32 where;
	__u32 tag;
	__u32 choice; /* which of the key's */
	__u32 age; /* of the record there, in uses of others of the set; 0: nothing is chosen */
};

/* What the next look for twins is about: a record, or none. */
struct settling {
	struct choice target; /* OFFERED when it was seen; where it is NOWHERE: none */
	struct choice twin; /* what was found */
	__u32 ended; /* target is LIVE, or free: there is nothing more to decide */
	__u32 pad;
};

/* Memory for those who make records. */
struct workspace {
	struct entry judged;
	struct entry mirror;
	struct choice chosen;
	struct settling settling;
};

/*
 * Looks for a way in one set, from way `first` on. Returns 1 if one is FREE;
 * else `best` becomes that of the unconfirmed record, but for `spare`, that was
 * used less recently than what it is now, if there is one.
 */
__noinline int way_choose_in(int family, __u32 index, __u32 first, __u32 spare, struct choice *best)
{
	struct flow_ways *set = flow_set(family_of(family), index);
	__u32 i, way, tag, age;

	if (!set || !best)
		return 0;
	for (i = 0; i < WAYS; i++) {
		way = (first + i) & (WAYS - 1);
		tag = tag_read(set, way);
		age = (__u16)(set->ticks - set->used[way]) + 1;
		if (explain && would_be_taken(index * WAYS + way))
			continue;
		if (explain && would_be_free(index * WAYS + way))
			tag = WAY_FREE;
		if ((tag & WAY_MASK) == WAY_FREE)
			age = ~0U;
		else if ((tag & (WAY_MASK | STATE_CONFIRMED)) != WAY_LIVE ||
			 index * WAYS + way == spare)
			continue;
		if (age <= best->age)
			continue;
		best->where = index * WAYS + way;
		best->tag = tag;
		best->age = age;
		if (age == ~0U)
			return 1;
	}
	return 0;
}

/* The age at which an unconfirmed record may go without a second look: three uses of others. */
#define AGE_TO_GO (WAYS / 2)

/*
 * Chooses a way for a new record: a FREE one of the first choice; else that of
 * the unconfirmed record that was used least recently there, if so many others
 * were used since. So a flood stays in the first choice, and readers need look
 * no further, but where confirmed records leave little room. There the second
 * choice is looked at, too: a FREE way, or the record that was used less
 * recently of both. Later choices are for where all these are confirmed. Never
 * `spare`. 0: there is none.
 */
__noinline int way_choose(int family, __u64 hash, __u32 spare, struct choice *best)
{
	__u32 c, before;

	if (!best)
		return 0;
	best->age = 0;
	for (c = 0; c < CHOICES; c++) {
		before = best->age;
		if (way_choose_in(family, hash_set(family, hash, c), hash_way(hash), spare, best)) {
			best->choice = c;
			return 1;
		}
		if (best->age != before)
			best->choice = c;
		if (best->age >= (c ? 1 : AGE_TO_GO))
			return 1;
	}
	return 0;
}

static __always_inline void flow_write(int family, struct flow *f, const struct tuple *t,
				       const struct record *r)
{
	struct flow4 *v4 = (void *)f;
	struct flow6 *v6 = (void *)f;

	f->hop = r->hop;
	f->service = r->service;
	f->backend = r->backend;
	f->last_seen = r->last_seen;
	f->expect = r->expect;
	f->traffic = 0;
	f->begun = 0;
	*(__u32 *)&f->to_sport = tuple_ports(&r->to);
	*(__u64 *)&f->sport = tuple_word(t) | (__u64)r->flags << FLAGS_SHIFT;
	if (family == AF_INET) {
		v4->saddr = t->saddr.word[0];
		v4->daddr = t->daddr.word[0];
		v4->to_saddr = r->to.saddr.word[0];
		v4->to_daddr = r->to.daddr.word[0];
	} else {
		addr_copy(family, v6->saddr, t->saddr.word);
		addr_copy(family, v6->daddr, t->daddr.word);
		addr_copy(family, v6->to_saddr, r->to.saddr.word);
		addr_copy(family, v6->to_daddr, r->to.daddr.word);
	}
}

/* The record whose place was taken went to a later choice than its first: it no longer does. */
__noinline int evicted_uncount(int family, __u32 where, __u32 choice, struct tuple *t)
{
	struct flow *f;

	if (!t)
		return 0;
	family = family_of(family);
	f = flow_at(family, where);
	if (!f)
		return 0;
	*(__u64 *)&t->sport = flow_word(f) & KEY_WORD;
	if (family == AF_INET) {
		t->saddr.word[0] = ((struct flow4 *)f)->saddr;
		t->daddr.word[0] = ((struct flow4 *)f)->daddr;
	} else {
		addr_copy(family, t->saddr.word, ((struct flow6 *)f)->saddr);
		addr_copy(family, t->daddr.word, ((struct flow6 *)f)->daddr);
	}
	spilled_add(family, key_hash(family, t), choice, -1);
	return 0;
}

/* Makes w->chosen BUSY, and its tag that of the new record. False: it has changed. */
static __always_inline bool way_take(int family, __u64 hash, bool same_key, struct workspace *w)
{
	__u32 *at = tag_at(family, w->chosen.where);
	__u32 old = w->chosen.tag, tag;

	tag = ((old + TAG_VERSION) & TAG_VERSION_MASK) | hash_tag(hash) | WAY_BUSY |
	      w->chosen.choice * TAG_CHOICE;
	if (explain) { /* as if it were taken */
		note_taken(hash, w->chosen.where);
		w->chosen.tag = tag;
		return true;
	}
	if (!at || __sync_val_compare_and_swap(at, old, tag) != old)
		return false;
	w->chosen.tag = tag;
	if (same_key)
		return true;
	if ((old & WAY_MASK) != WAY_FREE && tag_choice(old))
		evicted_uncount(family, w->chosen.where, tag_choice(old), &w->judged.key);
	spilled_add(family, hash, w->chosen.choice, 1);
	return true;
}

/*
 * Takes a way for a record of a key, into w->chosen. If r->tag is not 0, that
 * of a record of the same key, if it stays. 0: there is no room.
 */
__noinline int way_take_any(int family, __u64 hash, const struct record *r, __u32 spare,
			    struct workspace *w)
{
	__u32 i;

	if (!r || !w)
		return 0;
	family = family_of(family);
	if (explain && taken_for(hash, &w->chosen.where)) {
		w->chosen.tag = hash_tag(hash) | WAY_BUSY;
		return 1;
	}
	if (r->tag) {
		w->chosen.where = r->where;
		w->chosen.tag = r->tag;
		w->chosen.choice = tag_choice(r->tag);
		if (way_take(family, hash, true, w))
			return 1;
	}
	for (i = 0; i < CLAIM_TRIES; i++) {
		if (!way_choose(family, hash, spare, &w->chosen))
			return 0;
		if (way_take(family, hash, false, w))
			return 1;
	}
	return 0;
}

/*
 * Takes a place for a record. If r->tag is not 0, r->where and r->tag are those of
 * a record of the same key that it replaces; it must not be confirmed and alive.
 * Sets both to where the new one is, with r->state in the tag. What is there stays until
 * settle(): who waits for that memory can wait for other places at the same time.
 * Nonzero: there is no room.
 */
__noinline int flow_prepare(int family, const struct tuple *t, struct record *r, __u32 spare,
			    struct workspace *w)
{
	__u64 hash;

	if (!t || !r || !w)
		return -EINVAL;
	hash = key_hash(family, t);
	family = family_of(family);
	if (!way_take_any(family, hash, r, spare, w))
		return -ENOSPC;
	r->where = w->chosen.where;
	r->tag = w->chosen.tag | (r->state & STATE_MASK);
	/* differs from what the place's last tenant expected, see flow_expect() */
	r->expect = hash ^ r->tag ^ now();
	r->hop = hop_stamp(r->hop, r->tag);
	flow_touch_new(family, r->where);
	return 0;
}

/* Gives up a record that is prepared, and not settled. */
__noinline int flow_abandon(int family, const struct tuple *t, struct record *r)
{
	if (!t || !r)
		return 0;
	family = family_of(family);
	flow_fold(family, r->where);
	/* its tag in the table has no state yet */
	if (!explain)
		way_free(family, key_hash(family, t), r->where, r->tag & ~STATE_MASK);
	r->tag = 0;
	return 0;
}

/* Whether a tag may be that of an OFFERED or LIVE record of a key. */
static __always_inline bool tag_may_be_twin(__u32 tag, __u64 hash)
{
	return !((tag ^ hash_tag(hash)) & TAG_HASH_MASK) && (tag & WAY_MASK) >= WAY_OFFERED;
}

/*
 * Whether a way has an OFFERED or LIVE record of a key. Its record is read
 * after its tag, where order is weak after a tag that is read once more, as a
 * barrier. That one decides: a twin that has become LIVE meanwhile is a twin.
 * That the record stays need not be looked at: who comes later sees ours.
 */
static __always_inline bool is_twin(int family, struct flow_ways *set, __u32 way, __u64 hash,
				    const struct tuple *t, __u32 *tag)
{
	*tag = tag_read(set, way);
	if (!tag_may_be_twin(*tag, hash))
		return false;
	if (weakly_ordered) {
		*tag = __sync_fetch_and_add(&set->tag[way & (WAYS - 1)], 0);
		if (!tag_may_be_twin(*tag, hash))
			return false;
	}
	return key_equal(family, way_flow(family, set, way), t);
}

/* Finds another record of a key, but that at `own`, in one set. Returns as set_find(). */
__noinline int twin_find_in(int family, __u64 hash, const struct tuple *t, __u32 own,
			    struct choice *twin)
{
	__u32 way, index, choice;
	struct flow_ways *set;

	if (!t || !twin)
		return -1;
	family = family_of(family);
	choice = twin->choice;
	index = hash_set(family, hash, choice);
	set = flow_set(family, index);
	if (!set)
		return -1;
	for (way = 0; way < WAYS; way++) {
		twin->where = index * WAYS + way;
		if (twin->where != own && is_twin(family, set, way, hash, t, &twin->tag))
			return 1;
	}
	return *(volatile __u32 *)&set->spilled ? 0 : -1;
}

/* Finds another record of a key, but that at `own`: its place and tag. */
static __always_inline bool twin_find(int family, __u64 hash, const struct tuple *t, __u32 own,
				      struct choice *twin)
{
	int found = 0;
	__u32 c;

	for (c = 0; c < CHOICES && !found; c++) {
		twin->choice = c;
		found = twin_find_in(family, hash, t, own, twin);
	}
	return found > 0;
}

/* Makes an OFFERED record LIVE, its own or another processor's. */
static __always_inline bool way_enliven(int family, __u32 where, __u32 tag)
{
	__u32 *at = tag_at(family, where);

	return at && __sync_val_compare_and_swap(at, tag, tag | WAY_LIVE) == tag;
}

/*
 * Writes a prepared record, and shows it to the others. The exchange is the full barrier that
 * settle() needs.
 */
static __always_inline bool way_offer(int family, const struct tuple *t, struct record *r)
{
	struct flow *f = flow_at(family, r->where);
	__u32 *at = tag_at(family, r->where);

	if (!f || !at)
		return false;
	flow_fold(family, r->where);
	flow_write(family, f, t, r);
	r->tag = (r->tag & ~WAY_MASK) | WAY_OFFERED;
	__sync_lock_test_and_set(at, r->tag);
	return true;
}

/* Whether what was OFFERED has been made LIVE, by its owner or for it. */
static __always_inline bool is_live(int family, const struct choice *offered)
{
	__u32 *at = tag_at(family, offered->where);

	return at && !((*(volatile __u32 *)at ^ (offered->tag | WAY_LIVE)) & TAG_IDENTITY);
}

/* A full barrier before the scan that may make a twin LIVE. False: the twin is gone. */
static __always_inline bool twin_stays(int family, const struct choice *twin)
{
	__u32 *at = tag_at(family, twin->where);

	return at && __sync_val_compare_and_swap(at, twin->tag, twin->tag) == twin->tag;
}

/* Another record of the key was found: it is LIVE, or one of both has to go. */
static __always_inline void settle_twin(int family, __u64 hash, struct settling *at)
{
	bool none = at->target.where == NOWHERE;

	if ((at->twin.tag & WAY_MASK) == WAY_LIVE) {
		at->ended = true;
		return;
	}
	if (!none && at->twin.where > at->target.where) {
		way_free(family, hash, at->twin.where, at->twin.tag);
		return;
	}
	if (!none && !way_free(family, hash, at->target.where, at->target.tag) &&
	    is_live(family, &at->target)) {
		at->ended = true;
		return;
	}
	at->target = at->twin;
	if (!twin_stays(family, &at->twin))
		at->target.where = NOWHERE;
}

/* No other record of the key: what was OFFERED becomes LIVE. */
static __always_inline void settle_alone(int family, struct settling *at)
{
	/* the winner may have been offered behind the look: there is another */
	if (at->target.where == NOWHERE)
		return;
	at->ended = way_enliven(family, at->target.where, at->target.tag) ||
		    is_live(family, &at->target);
	if (!at->ended)
		at->target.where = NOWHERE;
}

/* One step of settle(), after a look for twins. Returns whether it was the last. */
__noinline int settle_step(int family, __u64 hash, int found, struct settling *at)
{
	if (!at)
		return 1;
	if (found)
		settle_twin(family_of(family), hash, at);
	else
		settle_alone(family_of(family), at);
	return at->ended;
}

/* The end of settle(). It is withdrawn if it is not LIVE: another is, or there were too many at a time. */
__noinline int settle_end(int family, __u64 hash, struct record *r)
{
	struct choice own = {};

	if (!r)
		return SETTLED_LOST;
	family = family_of(family);
	own.where = r->where;
	own.tag = r->tag;
	if (is_live(family, &own) ||
	    (!way_free(family, hash, own.where, own.tag) && is_live(family, &own))) {
		r->tag |= WAY_LIVE;
		return SETTLED_OWNER;
	}
	r->tag = 0;
	return SETTLED_LOST;
}

/* Other processors claim the same tuple at this moment. */
__noinline int settle_contended(int family, __u64 hash, const struct tuple *t, struct record *r,
				struct settling *at)
{
	__u32 i;

	if (!t || !r || !at)
		return SETTLED_LOST;
	at->target.where = r->where;
	at->target.tag = r->tag;
	at->ended = 0;
	for (i = 0; i < CLAIM_TRIES; i++)
		if (settle_step(family, hash,
				twin_find(family, hash, t, at->target.where, &at->twin), at))
			break;
	return settle_end(family, hash, r);
}

/*
 * Makes a prepared record the one of its tuple, or finds that another is. Sets
 * r->tag to that of the LIVE record, or to 0.
 *
 * A record becomes LIVE only after a look that began when it was OFFERED and
 * that found no twin. So who finds one that wins does not just make it LIVE,
 * but looks again in its owner's place. (With three processors nothing less
 * will do: see the variants of the model.)
 */
__noinline int flow_settle(int family, const struct tuple *t, struct record *r, struct workspace *w)
{
	__u64 hash;

	if (!t || !r || !w)
		return SETTLED_LOST;
	family = family_of(family);
	hash = key_hash(family, t);
	if (explain) { /* it writes nothing, so it always wins */
		r->tag |= WAY_LIVE;
		return SETTLED_OWNER;
	}
	if (!way_offer(family, t, r))
		return SETTLED_LOST;
	if (twin_find(family, hash, t, r->where, &w->settling.twin) ||
	    !way_enliven(family, r->where, r->tag))
		return settle_contended(family, hash, t, r, &w->settling);
	r->tag |= WAY_LIVE;
	return SETTLED_OWNER;
}

/* Both steps. -ENOSPC: there is no room; else enum settled. */
static __always_inline int flow_claim(int family, const struct tuple *t, struct record *r,
				      __u32 spare, struct workspace *w)
{
	int full = flow_prepare(family, t, r, spare, w);

	return full ? full : flow_settle(family, t, r, w);
}

/*
 * Releases what has expired in the sets that a key may be in: for a key that
 * found no room. Returns how many records.
 */
__noinline int flow_make_room(int family, const struct tuple *t, struct workspace *w)
{
	__u32 i, where, released = 0;
	__u64 hash;

	if (!t || !w)
		return 0;
	hash = key_hash(family, t);
	for (i = 0; i < CHOICES * WAYS; i++) {
		where = hash_set(family, hash, i / WAYS) * WAYS + i % WAYS;
		if (flow_read_way(family, where, &w->judged.key, &w->judged.record) &&
		    flow_dead(family, &w->judged, &w->mirror))
			released +=
				flow_release(family, &w->judged.key, where, w->judged.record.tag);
	}
	return released;
}

#endif
