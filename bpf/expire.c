//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Gives back the memory and the ports of dead flows. The walk runs in the
 * kernel and in its time base; the agent starts it now and then, and reads the
 * census it leaves. flows_new needs none: new records take the places of old.
 */

#include "flow.h"

struct census {
	__u32 live; /* records */
	__u32 expired;
	__u32 foreign; /* of those that live */
};

static __always_inline long expire_one(int family, struct flow *f, const struct tuple *t,
				       struct census *census)
{
	if (flow_dead(family, true, f, t)) {
		flow_delete(family, true, t);
		census->expired++;
	} else {
		census->live++;
		census->foreign += !!(f->flags & FLOW_FOREIGN);
	}
	return 0;
}

static long expire_one4(void *map, struct flow_key4 *key, struct flow4 *value,
			struct census *census)
{
	struct tuple t;

	key_tuple4(key, &t);
	return expire_one(AF_INET, &value->flow, &t, census);
}

static long expire_one6(void *map, struct flow_key6 *key, struct flow6 *value,
			struct census *census)
{
	struct tuple t;

	key_tuple6(key, &t);
	return expire_one(AF_INET6, &value->flow, &t, census);
}

SEC("syscall")
int waggle_expire4(struct census *ctx)
{
	struct census census = {};

	bpf_for_each_map_elem(&flows4, expire_one4, &census, 0);
	*ctx = census;
	return 0;
}

SEC("syscall")
int waggle_expire6(struct census *ctx)
{
	struct census census = {};

	bpf_for_each_map_elem(&flows6, expire_one6, &census, 0);
	*ctx = census;
	return 0;
}

/* The jiffies that all times in the maps are in, for whoever displays them. */
SEC("syscall")
int waggle_jiffies(__u32 *ctx)
{
	*ctx = now();
	return 0;
}
