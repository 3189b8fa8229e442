//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Records that the agent makes: of connections that another translator had
 * before us. It asks a program to, since records are made while packets make
 * others.
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
