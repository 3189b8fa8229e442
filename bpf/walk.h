/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_WALK_H
#define WAGGLE_WALK_H

#include "claim.h"

/*
 * Memory of the programs that the agent runs, which are interrupted by those
 * of packets and so can't share theirs. One of them runs at a time.
 */
struct walk_memory {
	struct workspace work;
	struct entry entry;
	__u32 busy;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk_memory);
} walk_map SEC(".maps");

/* NULL: another walk is under way. */
static __always_inline struct walk_memory *walk_begin(void)
{
	__u32 zero = 0;
	struct walk_memory *m = bpf_map_lookup_elem(&walk_map, &zero);

	return m && __sync_val_compare_and_swap(&m->busy, 0, 1) == 0 ? m : NULL;
}

static __always_inline void walk_end(struct walk_memory *m)
{
	__sync_lock_test_and_set(&m->busy, 0);
}

#endif
