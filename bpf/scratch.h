/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SCRATCH_H
#define WAGGLE_SCRATCH_H

#include "flow.h"

/* What an ICMP error is about. */
struct icmp_error {
	struct tuple quoted; /* the packet that the error is about, as it quotes it */
	struct tuple answer; /* what would answer it */
	struct tuple to; /* what the answer is rewritten to */
	union flow_key key;
	__u32 inner_off; /* of the quoted IP header */
	__u32 ports_off; /* of the quoted ports */
};

/* What of a packet is rewritten: ports follow the IP header. All lies at multiples of its size. */
struct head {
	__u16 pad;
	struct ethhdr eth;
	__be32 ip[sizeof(struct ipv6hdr) / 4 + 1];
};

/* Of TCP an error of ours quotes the header, see refuse.h. */
#define QUOTED_TCP 20

/*
 * What does not fit on the 512 bytes of stack that a program and all that it
 * calls share. Used by the packet programs only: they run with bottom halves
 * off, so none interrupts another on its CPU. Each member belongs to one
 * function.
 */
struct scratch {
	struct {
		union flow_key key;
		union flow_value value;
	} insert;
	union flow_key claim;
	struct bpf_fib_lookup fib;
	struct {
		union flow_value record;
		struct flow reply_flow;
		struct flow half;
		struct tuple to;
		struct tuple reply;
		struct tuple back;
		struct tuple key;
	} open;
	struct {
		struct flow flow;
		struct flow mirror_flow;
		struct tuple to;
		struct tuple mirror;
		struct tuple back;
		struct tuple half;
	} pending;
	struct head head;
	struct icmp_error icmp;
	__u8 quoted[IP_MAX_HEADER + QUOTED_TCP]; /* by an error of ours */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch_map SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_map, &zero);
}

/* Makes `to` what a record rewrites to. */
static __always_inline void flow_rewrite_set(int family, union flow_value *value,
					     const struct tuple *to)
{
	value->flow.sport = to->sport;
	value->flow.dport = to->dport;
	if (family == AF_INET) {
		value->v4.saddr = to->saddr.word[0];
		value->v4.daddr = to->daddr.word[0];
	} else {
		addr_copy(family, value->v6.saddr, to->saddr.word);
		addr_copy(family, value->v6.daddr, to->daddr.word);
	}
}

/* Records `to` as the rewrite of `t`; the other members come from `f`. */
static __always_inline long flow_insert(int family, bool confirmed, const struct tuple *t,
					const struct flow *f, const struct tuple *to, __u64 how)
{
	struct scratch *s = scratch();
	union flow_value *value;

	if (!s)
		return -1;
	value = &s->insert.value;
	flow_key(family, t, &s->insert.key);
	value->flow = *f;
	flow_rewrite_set(family, value, to);
	if (family == AF_INET && !confirmed)
		return new_flow_put4(&s->insert.key.v4, &value->v4, how == BPF_NOEXIST);
	if (!confirmed)
		return new_flow_put6(&s->insert.key.v6, &value->v6, how == BPF_NOEXIST);
	if (family == AF_INET)
		return bpf_map_update_elem(&flows4, &s->insert.key, value, how);
	return bpf_map_update_elem(&flows6, &s->insert.key, value, how);
}

#endif
