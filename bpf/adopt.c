//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Records that the agent makes: of connections that another translator had
 * before us. They follow that one's table, so the agent also says what state
 * they are in, and when they end. It asks programs to, since packets make and
 * end records meanwhile.
 */

#include "walk.h"

struct adoption {
	struct tuple key;
	struct tuple to; /* the rewrite; protocol and zone are the key's */
	__u32 family; /* AF_INET or AF_INET6 */
	__u32 state; /* STATE_* */
	__u16 flags; /* enum flow_flags */
	__u16 pad[3];
};

static __always_inline int adopt(const struct adoption *a, struct walk_memory *m)
{
	struct record *r = &m->entry.record;
	struct tuple *t = &m->entry.key;
	int family = family_of(a->family);

	*t = a->key;
	*r = (struct record){
		.to = a->to,
		.state = a->state,
		.flags = a->flags,
		.last_seen = now(),
	};
	if (flow_lookup(family, t, &m->work.mirror.record))
		return 0;
	switch (flow_claim(family, t, r, SPARE_NONE, &m->work)) {
	case SETTLED_OWNER:
		return 1;
	case SETTLED_LOST:
		return 0;
	default:
		return -ENOSPC;
	}
}

/* Returns whether the record is new, or -ENOSPC, or -EBUSY: another walk is under way. */
SEC("syscall")
int waggle_adopt(struct adoption *ctx)
{
	struct walk_memory *m = walk_begin();
	int ret;

	if (!m)
		return -EBUSY;
	ret = adopt(ctx, m);
	walk_end(m);
	return ret;
}

/* Whether there is the record that the agent means, in m->entry, and not a later one of its key. */
static __always_inline bool find_adopted(int family, const struct adoption *a,
					 struct walk_memory *m)
{
	struct record *r = &m->entry.record;
	struct tuple *t = &m->entry.key;

	*t = a->key;
	return flow_lookup(family, t, r) && r->flags == a->flags &&
	       addr_equal(family, r->to.saddr.word, a->to.saddr.word) &&
	       addr_equal(family, r->to.daddr.word, a->to.daddr.word) &&
	       tuple_ports(&r->to) == tuple_ports(&a->to);
}

/*
 * The connection goes on: its record lives from now on as long as if it had
 * been seen just now, and is in the given state, too. Returns whether it is
 * there, or -EBUSY.
 */
SEC("syscall")
int waggle_follow(struct adoption *ctx)
{
	struct walk_memory *m = walk_begin();
	int family = family_of(ctx->family), ret = 0;
	struct record *r;

	if (!m)
		return -EBUSY;
	r = &m->entry.record;
	if (find_adopted(family, ctx, m)) {
		flow_seen(family, r);
		ret = !!flow_mark(family, r->where, r->tag, ctx->state & STATE_MASK);
	}
	walk_end(m);
	return ret;
}

/* The connection is over, or another's: its record ends. Returns as waggle_follow(). */
SEC("syscall")
int waggle_leave(struct adoption *ctx)
{
	struct walk_memory *m = walk_begin();
	int family = family_of(ctx->family), ret = 0;

	if (!m)
		return -EBUSY;
	if (find_adopted(family, ctx, m)) {
		flow_end(family, &m->entry.key, m->entry.record.where, m->entry.record.tag);
		ret = 1;
	}
	walk_end(m);
	return ret;
}
