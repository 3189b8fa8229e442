/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_FLOW_H
#define WAGGLE_FLOW_H

#include "config.h"
#include "packet.h"

/*
 * One idea carries the datapath: tuple -> rewrite. A record holds the complete
 * rewrite of the packets that carry its key, so a backend that leaves its
 * service breaks no flow.
 *
 * A flow has two records, and each can be made from the other: the mirror of
 * (key -> rewrite) is (reversed rewrite -> reversed key). No link is stored,
 * and a half that got lost is made anew from the half that was hit.
 *
 *   express    ingress C>V   -> S>B   both rewritten here, sent by redirect
 *              ingress B>S   -> V>C   likewise
 *   stack      ingress C>V   -> C>B   destination here, the kernel routes
 *              egress  B>C   -> V>C   source here
 *   split      ingress C>V   -> S>B   destination and ports here, routed ...
 *              egress  C>B   -> S>B   ... and the source here: a third record
 *              ingress B>S   -> V>C   sent by redirect: its source is ours by
 *                                     then, and routing would call it martian
 */
enum flow_flags {
	FLOW_REPLY = 1, /* the backend's half */
	FLOW_EXPRESS = 2, /* rewrite all, then transmit without the stack */
	FLOW_SPLIT = 4, /* the client's source is rewritten by a FLOW_EGRESS_HALF */
	FLOW_EGRESS_HALF = 8,
	FLOW_MIRROR_EGRESS = 16, /* the mirror's packets are seen at egress */
	FLOW_XDP = 32, /* XDP may transmit by the next hop */
	FLOW_FOREIGN = 64, /* another translator's: followed, but left to the stack */
	FLOW_DIRECT = 128, /* tc may transmit by the next hop */
};

enum flow_state {
	STATE_ANSWERED = 1, /* the backend has sent something back */
	STATE_CONFIRMED = 2, /* in `flows`: the client has acknowledged that */
	STATE_FIN_CLIENT = 4,
	STATE_FIN_BACKEND = 8,
	STATE_RESET = 16,
};

#define STATE_FINS (STATE_FIN_CLIENT | STATE_FIN_BACKEND)

/* A tuple as seen at one hook direction. Network byte order. */
struct flow_key4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 egress;
	__u16 pad;
};

struct flow_key6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 egress;
	__u16 pad;
};

/* Where a record's packets go, so that the FIB is asked once a flow. */
struct nexthop {
	__u32 epoch; /* good while this is the node's epoch */
	__u32 ifindex;
	__u8 dmac[ETH_ALEN];
	__u8 smac[ETH_ALEN];
};

/* What both families' records begin with. */
struct flow {
	__u32 service; /* id, for counting and display only */
	__u32 backend;
	__u32 last_seen; /* jiffies, the lower half */
	__u32 expect_ack; /* unconfirmed: what acknowledges the SYN-ACK or INIT ACK */
	__u32 state; /* enum flow_state */
	struct nexthop hop;
	__be16 sport; /* the rewrite's ports */
	__be16 dport;
	__u16 flags; /* enum flow_flags */
	__u16 mtu; /* of the next hop, in bytes from the IP header on; 0: not known */
};

struct flow4 {
	struct flow flow;
	__be32 saddr; /* the rewrite's addresses */
	__be32 daddr;
};

struct flow6 {
	struct flow flow;
	__be32 saddr[4];
	__be32 daddr[4];
};

union flow_key {
	struct flow_key4 v4;
	struct flow_key6 v6;
};

union flow_value {
	struct flow flow;
	struct flow4 v4;
	struct flow6 v6;
};

/*
 * `flows` never evicts: when it is full, new flows stay in flows_new. Only
 * flows_new, where a stranger's single packet makes a record, is an LRU.
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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key4);
	__type(value, struct flow4);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows_new4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key6);
	__type(value, struct flow6);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows_new6 SEC(".maps");

static __always_inline void *flows_map(int family, bool confirmed)
{
	if (family == AF_INET)
		return confirmed ? (void *)&flows4 : (void *)&flows_new4;
	return confirmed ? (void *)&flows6 : (void *)&flows_new6;
}

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

/* For functions deep down, which must keep the key off the stack. */
static __always_inline struct flow *flow_lookup_by(int family, bool confirmed,
						   const struct tuple *t, union flow_key *key)
{
	flow_key(family, t, key);
	return bpf_map_lookup_elem(flows_map(family, confirmed), key);
}

static __always_inline void flow_delete_by(int family, bool confirmed, const struct tuple *t,
					   union flow_key *key)
{
	flow_key(family, t, key);
	bpf_map_delete_elem(flows_map(family, confirmed), key);
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
	struct tuple mirror;
	struct flow *m;

	if (!stale && !half)
		return false;
	flow_mirror(family, f, t, &mirror);
	if (confirmed)
		m = flow_lookup(family, true, &mirror);
	else
		m = flow_lookup(family, false, &mirror);
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
