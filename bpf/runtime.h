/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_RUNTIME_H
#define WAGGLE_RUNTIME_H

#include "addr.h"

/* What all programs of a node share, and what changes while they run. */
struct runtime_state {
	__u64 seed; /* of the hash that places flows; as old as the maps */
	__u32 generation; /* never 0; moves on when a route or a device changes */
	__u32 neighbours; /* moves on before the agent writes what a neighbour's change asks for */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct runtime_state);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} runtime SEC(".maps");

static __always_inline const volatile struct runtime_state *runtime_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&runtime, &zero);
}

static __always_inline __u32 current_generation(void)
{
	const volatile struct runtime_state *r = runtime_state();

	return r ? r->generation : 0;
}

static __always_inline __u32 neighbour_changes(void)
{
	const volatile struct runtime_state *r = runtime_state();

	return r ? r->neighbours : 0;
}

static __always_inline __u64 flows_seed(void)
{
	const volatile struct runtime_state *r = runtime_state();

	return r ? r->seed : 0;
}

/* The lower half of jiffies, which all times in the maps are in. */
static __always_inline __u32 now(void)
{
	return bpf_jiffies64();
}

#endif
