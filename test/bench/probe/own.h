/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_BENCH_OWN_H
#define WAGGLE_BENCH_OWN_H

/* Records of the datapath's table, made and ended by the benchmarks. */

#include "drive.h"
#include "../../../bpf/claim.h"

/* Memory of the programs that make records. */
struct own_memory {
	struct entry entry;
	struct entry other;
	struct workspace work;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct own_memory);
} own_memory_map SEC(".maps");

static __always_inline struct own_memory *own_memory(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&own_memory_map, &zero);
}

/* Puts m->entry into the table, in the place of the record of its key, if there is one. */
static __always_inline void own_replace(int family, struct own_memory *m)
{
	struct record *r = &m->entry.record;

	if (flow_lookup(family, &m->entry.key, &m->other.record)) {
		r->where = m->other.record.where;
		r->tag = m->other.record.tag;
	}
	if (flow_claim(family, &m->entry.key, r, SPARE_NONE, &m->work) != SETTLED_OWNER)
		driven.failed++;
}

static __always_inline void own_end(int family, const struct entry *e)
{
	flow_release(family, &e->key, e->record.where, e->record.tag);
}

#endif
