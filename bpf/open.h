/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OPEN_H
#define WAGGLE_OPEN_H

#include "affinity.h"
#include "nexthop.h"
#include "sources.h"

/* How many source ports are tried before a flow is given up. */
#define PORT_TRIES 24
/* From this try on, flows that nobody has confirmed give way. */
#define PORT_TAKE 12
/* Coprime to any range's length that is not a multiple of it. */
#define PORT_STRIDE 7919

/* The address that SNAT uses on a device, which may be unknown. False: there is none. */
static __always_inline bool snat_source(int family, const struct device *device, __be32 *source)
{
	__u32 fallback = 0;
	const __be32 *addr;

	if (device) {
		addr = family == AF_INET ? &device->addr4 : device->addr6;
		addr_copy(family, source, addr);
		if (!addr_is_zero(family, addr))
			return true;
	}
	device = bpf_map_lookup_elem(&devices, &fallback);
	if (!device)
		return false;
	addr = family == AF_INET ? &device->addr4 : device->addr6;
	addr_copy(family, source, addr);
	return !addr_is_zero(family, addr);
}

/* Who a new flow's client is, as far as that decides about its way. */
struct origin {
	bool on_node; /* a pod here: its packets are the CNI's to see */
	bool inside; /* the scope for clients inside is in force */
	bool keep; /* its address is kept, wherever the backend is */
	bool masquerade; /* its address is never kept */
};

/*
 * A client outside the node may be inside the cluster, whose addresses the
 * agent may know. That is asked only where it makes a difference.
 */
static __always_inline struct origin origin_of(int family, const struct packet *p,
					       const struct service *svc, bool internal)
{
	bool cluster_ip = svc->flags & SERVICE_CLUSTER_IP;
	bool local = internal;

	if (!internal && svc->flags & (SERVICE_CLUSTER_IP | SERVICE_EXTERNAL_LOCAL))
		local = source_in_ranges(LOCAL_SOURCES, &p->tuple.saddr, family);
	return (struct origin){
		.on_node = internal,
		.inside = local,
		.keep = internal || (local && cluster_ip),
		.masquerade = masquerade_all && cluster_ip,
	};
}

/*
 * Express where we may transmit, the stack where we may not. A flow needs SNAT
 * if its reply could miss this node (the client is outside, the backend on
 * another node), or would never leave the backend (it calls itself). Fills in
 * to->saddr, and the client's half's flags and next hop. False: nowhere to send.
 */
static __always_inline bool route_new(void *ctx, int family, __u32 ifindex, const struct packet *p,
				      const struct backend *backend, const struct origin *origin,
				      struct tuple *to, struct flow *f)
{
	bool local = backend->flags & BACKEND_LOCAL;
	bool hairpin = addr_equal(family, p->tuple.saddr.word, backend->addr);
	__u32 flags = 0, epoch = current_epoch();
	struct scratch *s = scratch();
	struct device *device;
	long ret;

	addr_copy(family, to->saddr.word, p->tuple.saddr.word);
	if (!hairpin && !origin->masquerade && (origin->keep || local))
		return true;
	if (!s)
		return false;
	ret = fib_lookup(ctx, family, ifindex, p->tuple.saddr.word, backend->addr, p->tuple.proto,
			 &s->fib);
	device = bpf_map_lookup_elem(&devices, &s->fib.ifindex);
	if (ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH)
		flags = device ? device->flags : 0;
	else if (ret == BPF_FIB_LKUP_RET_UNSUPP_LWT)
		flags = DEVICE_EGRESS;
	else if (!local && !node_has_addr(family, backend->addr))
		return false; /* a flow recorded now would outlive the lack of a route */

	if (flags & DEVICE_EXPRESS && !hairpin && !local && !origin->on_node) {
		f->flags = FLOW_EXPRESS;
		nexthop_set(f, &s->fib, ret, flags, epoch);
	} else if (flags & DEVICE_EGRESS) {
		f->flags = FLOW_SPLIT;
	} else {
		return true;
	}
	return snat_source(family, device, to->saddr.word);
}

/*
 * Claims the reply's tuple. flows_new is claimed first and `flows` looked at
 * after, because confirmation inserts there first and deletes here after: in
 * that order no two flows can come away with the same tuple. `t` is the new
 * flow's own tuple, to recognise what an earlier try of it left behind. Who is
 * not confirmed may be deprived of the tuple, as it may be evicted at any
 * time; were it not so, strangers' packets could use up all ports.
 */
static __always_inline int claim(int family, const struct tuple *t, bool take)
{
	struct scratch *s = scratch();
	struct tuple *reply, *to;
	struct flow *f, *other;

	if (!s)
		return false;
	f = &s->open.reply_flow;
	reply = &s->open.reply;
	to = &s->open.back;
	if (flow_insert(family, false, reply, f, to, BPF_NOEXIST)) {
		other = flow_lookup_by(family, false, reply, &s->claim);
		if (!other) /* another CPU claims it at this moment */
			return false;
		if (!flow_mirrors(family, other, t, false) &&
		    !(take && !(other->state & STATE_CONFIRMED)) &&
		    !(flow_stale(other, t->proto) && flow_dead(family, false, other, reply)))
			return false;
		if (flow_insert(family, false, reply, f, to, BPF_ANY))
			return false;
	}
	other = flow_lookup_by(family, true, reply, &s->claim);
	if (!other)
		return true;
	if ((!(f->flags & FLOW_EXPRESS) && flow_mirrors(family, other, t, false)) ||
	    (flow_stale(other, t->proto) && flow_dead(family, true, other, reply))) {
		flow_delete_by(family, true, reply, &s->claim);
		return true;
	}
	flow_delete_by(family, false, reply, &s->claim);
	return false;
}

__noinline int claim4(const struct tuple *t, int take)
{
	return t ? claim(AF_INET, t, take) : 0;
}

__noinline int claim6(const struct tuple *t, int take)
{
	return t ? claim(AF_INET6, t, take) : 0;
}

/* What the backend's half is, by the client's half. */
static __always_inline __u32 reply_flags(__u32 flags)
{
	if (!(flags & (FLOW_EXPRESS | FLOW_SPLIT)))
		return FLOW_REPLY;
	return FLOW_REPLY | FLOW_EXPRESS | (flags & FLOW_SPLIT);
}

/*
 * Finds the source port under which the backend will know the flow, and
 * records the reply under it. Where the address is the client's own, so is
 * the port if possible: it is not if the same client port already reaches
 * this backend through another frontend.
 */
static __always_inline bool open_reply(int family, const struct packet *p, struct scratch *s)
{
	struct tuple *to = &s->open.to, *reply = &s->open.reply;
	struct flow *f = &s->open.reply_flow;
	__u32 span = snat_max - snat_min + 1;
	__u32 pick = bpf_get_prandom_u32();
	bool snat = s->open.record.flow.flags;
	int i;

	*f = s->open.record.flow;
	f->flags = reply_flags(f->flags);
	f->hop = (struct nexthop){};
	f->mtu = 0;
	tuple_reverse(family, &p->tuple, !snat, &s->open.back);
	to->sport = p->tuple.sport;
	for (i = 0; i < PORT_TRIES; i++) {
		if (snat || i)
			to->sport = bpf_htons(snat_min + (pick + i * PORT_STRIDE) % span);
		tuple_reverse(family, to, !snat, reply);
		if (family == AF_INET ? claim4(&p->tuple, i >= PORT_TAKE)
				      : claim6(&p->tuple, i >= PORT_TAKE))
			return true;
	}
	return false;
}

/* The third record of a split flow. */
static __always_inline long open_egress_half(int family, bool confirmed, const struct flow *f,
					     const struct tuple *t, const struct tuple *to,
					     struct scratch *s)
{
	struct tuple *key = &s->open.key;

	s->open.half = *f;
	s->open.half.flags = FLOW_EGRESS_HALF;
	flow_egress_half(family, t, to, key);
	return flow_insert(family, confirmed, key, &s->open.half, to, BPF_ANY);
}

/*
 * Records a new flow, whose backend and route stand in the scratch. There the
 * record stays, for the packet at hand.
 */
static __always_inline int open_records(int family, const struct packet *p)
{
	struct scratch *s = scratch();
	struct flow *f;

	if (!s)
		return VERDICT_DROP_ERROR;
	f = &s->open.record.flow;
	if (!open_reply(family, p, s))
		return VERDICT_DROP_SNAT_EXHAUSTED;
	if (!f->flags)
		f->flags = FLOW_MIRROR_EGRESS;
	flow_rewrite_set(family, &s->open.record, &s->open.to);
	if (flow_insert(family, false, &p->tuple, f, &s->open.to, BPF_ANY))
		return VERDICT_DROP_ERROR;
	if (f->flags & FLOW_SPLIT && open_egress_half(family, false, f, &p->tuple, &s->open.to, s))
		return VERDICT_DROP_ERROR;
	return VERDICT_FLOW_OPENED;
}

__noinline int open_records4(const struct packet *p)
{
	return p ? open_records(AF_INET, p) : VERDICT_DROP_ERROR;
}

__noinline int open_records6(const struct packet *p)
{
	return p ? open_records(AF_INET6, p) : VERDICT_DROP_ERROR;
}

/* Chooses a backend for a packet of no known flow, and records both halves. */
static __always_inline int flow_open(void *ctx, int family, __u32 ifindex, const struct packet *p,
				     const struct service *svc, bool internal)
{
	struct scratch *s = scratch();
	struct backend *backend;
	struct origin origin;
	__u32 id;

	if (!s)
		return VERDICT_DROP_ERROR;
	/* the stack drops martians, too, but would not see these */
	if (p->tcp_flags & TCP_RST || !addr_is_sender(family, p->tuple.saddr.word))
		return VERDICT_DROP_NO_FLOW;
	if (p->fragment == FRAGMENT_LATER) /* its flow is gone; another would not know the first */
		return VERDICT_FRAGMENT;
	if (svc->flags & SERVICE_SOURCE_RANGES &&
	    !source_in_ranges(svc->id, &p->tuple.saddr, family))
		return VERDICT_DROP_SOURCE_RANGE;
	origin = origin_of(family, p, svc, internal);
	id = backend_choose(svc, &p->tuple.saddr, family, origin.inside);
	backend = id ? backend_get(id) : NULL;
	if (!backend) {
		if (svc->flags & (origin.inside ? SERVICE_INTERNAL_DROP : SERVICE_EXTERNAL_DROP))
			return VERDICT_DROP_NO_LOCAL_ENDPOINT;
		return VERDICT_REFUSED;
	}
	s->open.record.flow = (struct flow){
		.service = svc->id,
		.backend = id,
		.last_seen = now(),
		.state = p->tcp_flags & TCP_FIN ? STATE_FIN_CLIENT : 0,
	};
	if (!route_new(ctx, family, ifindex, p, backend, &origin, &s->open.to,
		       &s->open.record.flow))
		return VERDICT_DROP_NO_ROUTE;
	addr_copy(family, s->open.to.daddr.word, backend->addr);
	s->open.to.dport = backend->port;
	s->open.to.proto = p->tuple.proto;
	return family == AF_INET ? open_records4(p) : open_records6(p);
}

#endif
