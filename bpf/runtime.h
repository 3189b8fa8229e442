/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_RUNTIME_H
#define WAGGLE_RUNTIME_H

#include "addr.h"

/* What all programs of a node share, and what changes while they run. */
struct runtime_state {
	__u64 seed; /* of the hash that places flows; as old as the maps */
	__u32 epoch; /* never 0; moves on when a route or a neighbour changes */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct runtime_state);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} runtime SEC(".maps");

static __always_inline const struct runtime_state *runtime_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&runtime, &zero);
}

static __always_inline __u32 current_epoch(void)
{
	const struct runtime_state *r = runtime_state();

	return r ? r->epoch : 0;
}

static __always_inline __u64 flows_seed(void)
{
	const struct runtime_state *r = runtime_state();

	return r ? r->seed : 0;
}

#endif
