/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_FLOW_H
#define WAGGLE_FLOW_H

#include "config.h"
#include "flowtable.h"

/*
 * A flow has two records, the client's and the backend's, and each can be made
 * from the other: the mirror of (key -> rewrite) is (reversed rewrite ->
 * reversed key). No link is stored, and one that got lost is made anew from
 * the other. A record holds the complete rewrite, the backend's address
 * included, so a backend that leaves its service breaks no flow.
 *
 *   express    ingress C>V   -> S>B   both rewritten here, sent by redirect
 *              ingress B>S   -> V>C   likewise
 *   stack      ingress C>V   -> C>B   destination here, the kernel routes
 *              egress  B>C   -> V>C   source here
 *   turn       pod C>V       -> S>C   both, and back out of the same device
 *              pod C>S       -> V>C   likewise
 *   split      ingress C>V   -> S>B   destination and ports here, routed ...
 *              egress  C>B   -> S>B   ... and the source here: a third record
 *              ingress B>S   -> V>C   sent by redirect: its source is ours by
 *                                     then, and routing would call it martian
 */
enum flow_flags {
	FLOW_REPLY = 1, /* the backend's record */
	FLOW_EXPRESS = 2, /* rewrite all, then transmit without the stack */
	FLOW_SPLIT = 4, /* the client's source is rewritten by a FLOW_SPLIT_SOURCE */
	FLOW_SPLIT_SOURCE = 8, /* a split flow's third record */
	FLOW_FOREIGN = 16, /* another translator's: followed, but left to the stack */
	FLOW_MIRROR_ZONE = 32, /* 2 bits: the zone of the mirror's key */
	FLOW_MIRROR_ZONE_MASK = 3 * FLOW_MIRROR_ZONE,
	FLOW_TURN = 128, /* express, back out of the device that it came in by */
	FLOW_BEGUN = 256, /* by a SYN, with the client's source: see answers_directly() */
};

static __always_inline enum zone mirror_zone(__u16 flags)
{
	return (flags & FLOW_MIRROR_ZONE_MASK) / FLOW_MIRROR_ZONE;
}

/* The tuple under which the other record of a flow is found. */
static __always_inline void flow_mirror(int family, const struct record *r, struct tuple *mirror)
{
	tuple_reverse(family, &r->to, mirror_zone(r->flags), mirror);
}

/* The key of a split flow's third record: its packets between the two hooks. */
static __always_inline void split_source_key(int family, const struct tuple *t,
					     const struct tuple *to, struct tuple *key)
{
	addr_copy(family, key->saddr.word, t->saddr.word);
	addr_copy(family, key->daddr.word, to->daddr.word);
	tuple_set_word(key, tuple_ports(to), t->proto, ZONE_LEAVING);
}

/*
 * Whether `m`, found under a mirror's key, really is the other record of the
 * flow that `r` is recorded of under `t`, not a later flow's. No record is the
 * mirror of a split flow's third one: it is compared by what both rewrite to.
 */
static __always_inline bool flow_mirrors(int family, const struct record *m, const struct tuple *t,
					 const struct record *r)
{
	__u32 ports = tuple_ports(t);

	if (!addr_equal(family, m->to.daddr.word, t->saddr.word))
		return false;
	if (r->flags & FLOW_SPLIT_SOURCE)
		return true;
	return mirror_zone(m->flags) == t->zone &&
	       addr_equal(family, m->to.saddr.word, t->daddr.word) &&
	       tuple_ports(&m->to) == (ports << 16 | ports >> 16);
}

/* Finds the other record of a flow. False: m->key is where it should be. */
static __always_inline bool mirror_lookup(int family, const struct tuple *t, const struct record *r,
					  struct entry *m)
{
	flow_mirror(family, r, &m->key);
	return flow_lookup(family, &m->key, &m->record) && flow_mirrors(family, &m->record, t, r);
}

static __always_inline bool flow_closed(__u32 tag)
{
	return tag & STATE_RESET || (tag & STATE_FINS) == STATE_FINS;
}

/* How long a record outlives its last packet, in jiffies. */
static __always_inline __u32 flow_timeout(__u32 tag, __u8 proto)
{
	if (proto == IPPROTO_UDP)
		return tag & STATE_ANSWERED ? timeout_udp : timeout_new;
	if (tag & STATE_RESET)
		return timeout_tcp_reset;
	if ((tag & STATE_FINS) == STATE_FINS)
		return timeout_tcp_closed;
	if (!(tag & STATE_CONFIRMED))
		return timeout_new;
	return tag & STATE_FINS ? timeout_tcp_half_closed : timeout_tcp;
}

/* By its own packets: the other record's may keep it alive. */
static __always_inline bool flow_stale(const struct record *r, __u8 proto, __u32 time)
{
	/* another processor may have seen it at a later time */
	return (__s32)(time - r->last_seen) > (__s32)flow_timeout(r->tag, proto);
}

/* Whether it is a while, a second, since a flow's last packet was noted. */
static __always_inline bool seen_a_while_ago(const struct record *r)
{
	return (__s32)(r->time - r->last_seen) >= (__s32)hz;
}

/*
 * Whether a record counts as absent. A flow lives while either of its records
 * is fresh: a stream may run one way for hours. A split flow's third record
 * lives with its reply. `m` is memory for the other record.
 */
static __always_inline bool flow_ended(int family, const struct tuple *t, const struct record *r,
				       struct entry *m)
{
	bool stale = flow_stale(r, t->proto, r->time);

	if (!stale && !(r->flags & FLOW_SPLIT_SOURCE))
		return false;
	if (mirror_lookup(family, t, r, m))
		return stale && flow_stale(&m->record, t->proto, r->time);
	return true;
}

/* The same, of an entry. */
__noinline int flow_dead(int family, const struct entry *e, struct entry *m)
{
	return e && m ? flow_ended(family_of(family), &e->key, &e->record, m) : 0;
}

#endif
