//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Records that the agent makes of those that the release before this one has
 * left in a table of another layout. The agent reads that table while packets
 * go on by it, again and again, and asks this program for a record each time
 * that one there has changed.
 */

#include "track.h"
#include "walk.h"

struct conversion {
	struct tuple key;
	struct tuple to; /* the rewrite; protocol and zone are the key's */
	__u32 family; /* AF_INET or AF_INET6 */
	__u32 state; /* STATE_* */
	__u32 service;
	__u32 backend;
	__u32 last_seen; /* jiffies */
	__u32 expect; /* if it is answered and not confirmed, see struct flow */
	__u16 flags; /* enum flow_flags */
	__u16 pad[3];
};

/* The record was made by an earlier call: it learns what has happened since. */
static __always_inline void convert_again(int family, const struct conversion *c, struct record *r)
{
	struct flow *f = flow_at(family, r->where);

	if (f && (__s32)(c->last_seen - r->last_seen) > 0)
		f->last_seen = c->last_seen;
	if (c->state & ~r->tag & STATE_ANSWERED)
		flow_expect(family, r, c->expect);
	record_mark(family, r, c->state & STATE_MASK);
}

static __always_inline int convert(const struct conversion *c, struct walk_memory *m)
{
	struct record *r = &m->entry.record, *there = &m->work.judged.record;
	struct tuple *t = &m->entry.key;
	int family = family_of(c->family);
	int ret;

	*t = c->key;
	*r = (struct record){
		.to = c->to,
		.service = c->service,
		.backend = c->backend,
		.state = c->state,
		.flags = c->flags,
		.last_seen = c->last_seen,
	};
	if (flow_lookup(family, t, there)) {
		if (there->flags == r->flags && same_rewrite(family, there, r)) {
			convert_again(family, c, there);
			return 0;
		}
		m->work.judged.key = *t;
		if (!flow_dead(family, &m->work.judged, &m->work.mirror))
			return -EEXIST;
		r->where = there->where;
		r->tag = there->tag;
	}
	ret = flow_claim(family, t, r, SPARE_NONE, &m->work);
	if (ret == -ENOSPC && flow_make_room(family, t, &m->work))
		ret = flow_claim(family, t, r, SPARE_NONE, &m->work);
	if (ret < 0)
		return ret;
	if (ret == SETTLED_LOST)
		return 0;
	if ((c->state & (STATE_ANSWERED | STATE_CONFIRMED)) == STATE_ANSWERED)
		flow_expect(family, r, c->expect);
	return 1;
}

/*
 * Returns whether the record is new; or -EEXIST: its key is another flow's by
 * now; or -ENOSPC; or -EBUSY: another walk is under way.
 */
SEC("syscall")
int waggle_convert(struct conversion *ctx)
{
	struct walk_memory *m = walk_begin();
	int ret;

	if (!m)
		return -EBUSY;
	ret = convert(ctx, m);
	walk_end(m);
	return ret;
}
