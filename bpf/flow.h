/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_FLOW_H
#define WAGGLE_FLOW_H

#include "config.h"
#include "newflows.h"
#include "packet.h"

/*
 * `flows` never evicts: when it is full, new flows stay in flows_new, where a
 * stranger's single packet makes a record, and takes another's place for it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key4);
	__type(value, struct flow4);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow_key6);
	__type(value, struct flow6);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows6 SEC(".maps");

static __always_inline void flow_key(int family, const struct tuple *t, union flow_key *key)
{
	if (family == AF_INET) {
		key->v4 = (struct flow_key4){
			.saddr = t->saddr.word[0],
			.daddr = t->daddr.word[0],
			.sport = t->sport,
			.dport = t->dport,
			.proto = t->proto,
			.egress = t->egress,
		};
		return;
	}
	addr_copy(family, key->v6.saddr, t->saddr.word);
	addr_copy(family, key->v6.daddr, t->daddr.word);
	key->v6.sport = t->sport;
	key->v6.dport = t->dport;
	key->v6.proto = t->proto;
	key->v6.egress = t->egress;
	key->v6.pad = 0;
}

static __always_inline void key_tuple4(const struct flow_key4 *key, struct tuple *t)
{
	t->saddr.word[0] = key->saddr;
	t->daddr.word[0] = key->daddr;
	t->sport = key->sport;
	t->dport = key->dport;
	t->proto = key->proto;
	t->egress = key->egress;
}

static __always_inline void key_tuple6(const struct flow_key6 *key, struct tuple *t)
{
	addr_copy(AF_INET6, t->saddr.word, key->saddr);
	addr_copy(AF_INET6, t->daddr.word, key->daddr);
	t->sport = key->sport;
	t->dport = key->dport;
	t->proto = key->proto;
	t->egress = key->egress;
}

static __always_inline struct flow *flow_at(int family, bool confirmed, const union flow_key *key)
{
	if (!confirmed)
		return new_flow_get(family, key);
	if (family == AF_INET)
		return bpf_map_lookup_elem(&flows4, key);
	return bpf_map_lookup_elem(&flows6, key);
}

/* For functions deep down, which must keep the key off the stack. */
static __always_inline struct flow *flow_lookup_by(int family, bool confirmed,
						   const struct tuple *t, union flow_key *key)
{
	flow_key(family, t, key);
	return flow_at(family, confirmed, key);
}

static __always_inline void flow_delete_by(int family, bool confirmed, const struct tuple *t,
					   union flow_key *key)
{
	flow_key(family, t, key);
	if (!confirmed)
		family == AF_INET ? new_flow_delete4(&key->v4) : new_flow_delete6(&key->v6);
	else if (family == AF_INET)
		bpf_map_delete_elem(&flows4, key);
	else
		bpf_map_delete_elem(&flows6, key);
}

static __always_inline struct flow *flow_lookup(int family, bool confirmed, const struct tuple *t)
{
	union flow_key key;

	return flow_lookup_by(family, confirmed, t, &key);
}

static __always_inline void flow_delete(int family, bool confirmed, const struct tuple *t)
{
	union flow_key key;

	flow_delete_by(family, confirmed, t, &key);
}

/* The tuple that a record rewrites its packets to. */
static __always_inline void flow_rewrite(int family, const struct flow *f, const struct tuple *t,
					 struct tuple *to)
{
	if (family == AF_INET) {
		const struct flow4 *v4 = (const void *)f;

		to->saddr.word[0] = v4->saddr;
		to->daddr.word[0] = v4->daddr;
	} else {
		const struct flow6 *v6 = (const void *)f;

		addr_copy(family, to->saddr.word, v6->saddr);
		addr_copy(family, to->daddr.word, v6->daddr);
	}
	to->sport = f->sport;
	to->dport = f->dport;
	to->proto = t->proto;
	to->egress = t->egress;
}

static __always_inline void tuple_reverse(int family, const struct tuple *t, bool egress,
					  struct tuple *reverse)
{
	addr_copy(family, reverse->saddr.word, t->daddr.word);
	addr_copy(family, reverse->daddr.word, t->saddr.word);
	reverse->sport = t->dport;
	reverse->dport = t->sport;
	reverse->proto = t->proto;
	reverse->egress = egress;
}

/* The tuple under which the other half of a flow is recorded. */
static __always_inline void flow_mirror(int family, const struct flow *f, const struct tuple *t,
					struct tuple *mirror)
{
	struct tuple to;

	flow_rewrite(family, f, t, &to);
	tuple_reverse(family, &to, f->flags & FLOW_MIRROR_EGRESS, mirror);
}

/* The same, as a key. */
static __always_inline void flow_mirror_key(int family, const struct flow *f, const struct tuple *t,
					    union flow_key *key)
{
	if (family == AF_INET) {
		key->v4 = (struct flow_key4){
			.saddr = ((const struct flow4 *)f)->daddr,
			.daddr = ((const struct flow4 *)f)->saddr,
			.sport = f->dport,
			.dport = f->sport,
			.proto = t->proto,
			.egress = !!(f->flags & FLOW_MIRROR_EGRESS),
		};
		return;
	}
	addr_copy(family, key->v6.saddr, ((const struct flow6 *)f)->daddr);
	addr_copy(family, key->v6.daddr, ((const struct flow6 *)f)->saddr);
	key->v6.sport = f->dport;
	key->v6.dport = f->sport;
	key->v6.proto = t->proto;
	key->v6.egress = !!(f->flags & FLOW_MIRROR_EGRESS);
	key->v6.pad = 0;
}

/* The key of a split flow's third record: its packets between the two hooks. */
static __always_inline void flow_egress_half(int family, const struct tuple *t,
					     const struct tuple *to, struct tuple *half)
{
	addr_copy(family, half->saddr.word, t->saddr.word);
	addr_copy(family, half->daddr.word, to->daddr.word);
	half->sport = to->sport;
	half->dport = to->dport;
	half->proto = t->proto;
	half->egress = 1;
}

/*
 * Whether `f`, found under a mirror's key, really is the other half of the
 * flow recorded under `t`, not a later flow's. The egress half of a split
 * flow is nobody's mirror: it is compared by what both rewrite to.
 */
static __always_inline bool flow_mirrors(int family, const struct flow *f, const struct tuple *t,
					 bool egress_half)
{
	struct tuple to;

	flow_rewrite(family, f, t, &to);
	if (!addr_equal(family, to.daddr.word, t->saddr.word))
		return false;
	if (egress_half)
		return true;
	return addr_equal(family, to.saddr.word, t->daddr.word) && to.sport == t->dport &&
	       to.dport == t->sport;
}

static __always_inline __u32 now(void)
{
	return bpf_jiffies64();
}

static __always_inline bool flow_closed(const struct flow *f)
{
	return (f->state & STATE_RESET) || (f->state & STATE_FINS) == STATE_FINS;
}

/* How long a record outlives its last packet, in jiffies. */
static __always_inline __u32 flow_timeout(const struct flow *f, __u8 proto)
{
	if (proto == IPPROTO_UDP)
		return f->state & STATE_ANSWERED ? timeout_udp : timeout_new;
	if (f->state & STATE_RESET)
		return timeout_tcp_reset;
	if ((f->state & STATE_FINS) == STATE_FINS)
		return timeout_tcp_closed;
	if (!(f->state & STATE_CONFIRMED))
		return timeout_new;
	return f->state & STATE_FINS ? timeout_tcp_half_closed : timeout_tcp;
}

static __always_inline bool flow_stale(const struct flow *f, __u8 proto)
{
	return now() - f->last_seen > flow_timeout(f, proto);
}

/*
 * A flow lives while either half is fresh: a stream may run one way for hours.
 * The walk that deletes dead records only gives memory back; that a dead
 * record is not used does not depend on it.
 */
static __always_inline bool flow_is_dead(int family, bool confirmed, const struct flow *f,
					 const struct tuple *t)
{
	bool half = f->flags & FLOW_EGRESS_HALF;
	bool stale = flow_stale(f, t->proto);
	union flow_key key; /* the stack is short: one for both tables, and no tuple */
	struct flow *m;

	if (!stale && !half)
		return false;
	flow_mirror_key(family, f, t, &key);
	m = confirmed ? flow_at(family, true, &key) : flow_at(family, false, &key);
	if (m && flow_mirrors(family, m, t, half))
		return stale && flow_stale(m, t->proto);
	return true;
}

/*
 * The slow path is made of global functions: the verifier proves each of them
 * once, not once a call, and the fast path stays small.
 */
__noinline int flow_dead4(const struct flow4 *f, const struct tuple *t, int confirmed)
{
	return f && t ? flow_is_dead(AF_INET, confirmed, &f->flow, t) : 0;
}

__noinline int flow_dead6(const struct flow6 *f, const struct tuple *t, int confirmed)
{
	return f && t ? flow_is_dead(AF_INET6, confirmed, &f->flow, t) : 0;
}

static __always_inline bool flow_dead(int family, bool confirmed, const struct flow *f,
				      const struct tuple *t)
{
	if (family == AF_INET)
		return flow_dead4((const void *)f, t, confirmed);
	return flow_dead6((const void *)f, t, confirmed);
}

#endif
