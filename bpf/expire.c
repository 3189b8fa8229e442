//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Counts the flows, and gives back the memory and the ports of dead ones. The
 * walk runs in the kernel and in its time base; the agent starts it now and
 * then, and reads the census it leaves. That a dead record is not used does
 * not depend on it.
 */

#include "walk.h"

/* Of records. */
struct census {
	__u32 release; /* set by who asks: whether the dead are to be released */
	__u32 pass; /* set by who asks: under what number active flows are counted, see stats.h; 0: they are not */
	__u32 confirmed;
	__u32 unconfirmed;
	__u32 dead;
	__u32 foreign; /* of those that live */
};

/* Counts the record of one way, and releases it if it is dead. */
__noinline int expire_way(int family, __u32 where, struct census *census, struct workspace *w)
{
	struct record *r;
	struct tuple *t;

	if (!census || !w)
		return 0;
	t = &w->judged.key;
	r = &w->judged.record;
	if (!flow_read_way(family, where, t, r))
		return 0;
	if (flow_ended(family, t, r, &w->mirror)) {
		census->dead++;
		if (census->release)
			flow_release(family, t, where, r->tag);
		return 0;
	}
	if (census->release && seen_a_while_ago(r))
		flow_fold(family, where);
	if (census->pass && !(r->flags & (FLOW_REPLY | FLOW_SPLIT_SOURCE)) && !flow_closed(r->tag))
		stats_active(family, where, census->pass);
	census->foreign += !!(r->flags & FLOW_FOREIGN);
	if (r->tag & STATE_CONFIRMED)
		census->confirmed++;
	else
		census->unconfirmed++;
	return 0;
}

struct expire_walk {
	struct walk_memory *memory;
	struct census census;
};

static __always_inline long expire_set(int family, __u32 index, const struct flow_ways *set,
				       struct expire_walk *walk)
{
	__u32 way;

	for (way = 0; way < WAYS; way++)
		if ((tag_read(set, way) & WAY_MASK) == WAY_LIVE)
			expire_way(family, index * WAYS + way, &walk->census, &walk->memory->work);
	return 0;
}

static long expire_set4(void *map, __u32 *index, struct flow_set4 *set, struct expire_walk *walk)
{
	return expire_set(AF_INET, *index, &set->ways, walk);
}

static long expire_set6(void *map, __u32 *index, struct flow_set6 *set, struct expire_walk *walk)
{
	return expire_set(AF_INET6, *index, &set->ways, walk);
}

SEC("syscall")
int waggle_expire4(struct census *ctx)
{
	struct expire_walk walk = { .memory = walk_begin(),
				    .census.release = ctx->release,
				    .census.pass = ctx->pass };

	if (!walk.memory)
		return -EBUSY;
	bpf_for_each_map_elem(&flows4, expire_set4, &walk, 0);
	walk_end(walk.memory);
	*ctx = walk.census;
	return 0;
}

SEC("syscall")
int waggle_expire6(struct census *ctx)
{
	struct expire_walk walk = { .memory = walk_begin(),
				    .census.release = ctx->release,
				    .census.pass = ctx->pass };

	if (!walk.memory)
		return -EBUSY;
	bpf_for_each_map_elem(&flows6, expire_set6, &walk, 0);
	walk_end(walk.memory);
	*ctx = walk.census;
	return 0;
}

/* The jiffies that all times in the maps are in, for the commands that print them. */
SEC("syscall")
int waggle_jiffies(__u32 *ctx)
{
	*ctx = now();
	return 0;
}
