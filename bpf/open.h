/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OPEN_H
#define WAGGLE_OPEN_H

#include "affinity.h"
#include "cluster.h"
#include "direct.h"
#include "nexthop.h"
#include "owner.h"
#include "sources.h"

/* How many source ports are tried before a flow is given up. */
#define PORT_TRIES 24
/*
 * Where unconfirmed flows have all ports, a new one takes the port of one whose answer is
 * hardly on its way any more: one that has been silent for a second, or else the one of
 * this many that has been silent for longest. Each look waits for memory.
 */
#define PORT_LOOKS 3
/*
 * Of flows that have been silent for less than this, in jiffies, none gives way before
 * this try. All are so young in a flood alone.
 */
#define PORT_SILENCE 2
#define PORT_TAKE 8
/* Coprime to any range's length that is not a multiple of it. */
#define PORT_STRIDE 7919

/* The address that SNAT uses on a device, which may be unknown. False: there is none. */
static __always_inline bool snat_source(int family, const struct device *device, __be32 *source)
{
	const __be32 *addr;

	if (device) {
		addr = family == AF_INET ? &device->addr4 : device->addr6;
		addr_copy(family, source, addr);
		if (!addr_is_zero(family, addr))
			return true;
	}
	device = device_get(0);
	if (!device)
		return false;
	addr = family == AF_INET ? &device->addr4 : device->addr6;
	addr_copy(family, source, addr);
	return !addr_is_zero(family, addr);
}

/*
 * A client outside the node may be inside the cluster, whose addresses the
 * agent may know. That is asked only where it makes a difference.
 */
static __always_inline struct opening opening_of(int family, const struct packet *p,
						 const struct service *svc)
{
	bool cluster_ip = svc->flags & SERVICE_CLUSTER_IP;
	bool pod = p->tuple.zone == ZONE_POD;
	bool internal = pod;

	if (!pod && svc->flags & (SERVICE_CLUSTER_IP | SERVICE_EXTERNAL_LOCAL))
		internal = source_in_ranges(LOCAL_SOURCES, &p->tuple.saddr, family);
	return (struct opening){
		.pod = pod,
		.internal = internal,
		.keep_source = pod || (internal && cluster_ip),
		.masquerade = masquerade_all && cluster_ip,
	};
}

/*
 * Express where we may transmit, the stack where we may not. A flow needs SNAT
 * if its reply could miss this node (the client is outside, the backend on
 * another node), or would never leave the backend (it calls itself). A pod that
 * calls itself gets its packets back by the device that they came from: neither
 * a bridge nor netfilter would take them there. Fills in the client's record,
 * s->record: source address, flags and next hop. False: nowhere to send.
 */
static __always_inline bool route_new(void *ctx, int family, __u32 ifindex, __u32 mark,
				      struct scratch *s)
{
	__u32 generation = current_generation(), changes = neighbour_changes(), flags = 0;
	const struct opening *o = &s->opening;
	const struct packet *p = &s->packet;
	struct record *r = &s->record;
	bool hairpin = addr_equal(family, p->tuple.saddr.word, r->to.daddr.word);
	enum zone reply = ZONE_OUTSIDE;
	struct device *device;
	long ret;

	addr_copy(family, r->to.saddr.word, p->tuple.saddr.word);
	r->flags = ZONE_LEAVING * FLOW_MIRROR_ZONE;
	if (!hairpin && !o->masquerade && (o->keep_source || o->local)) {
		if (p->tuple.proto == IPPROTO_TCP && p->tcp_flags & TCP_SYN)
			r->flags |= FLOW_BEGUN;
		return true;
	}
	if (hairpin && o->pod) {
		r->flags = FLOW_EXPRESS | FLOW_TURN | ZONE_POD * FLOW_MIRROR_ZONE;
		return snat_source(family, device_get(ifindex), r->to.saddr.word);
	}
	ret = fib_lookup(ctx, family, ifindex, mark, &p->tuple, 0, s);
	device = device_get(s->fib.ifindex);
	/*
	 * A flow that is recorded now would outlive the lack of a route. By a
	 * device with no role it would leave without SNAT.
	 */
	if (device && (ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH))
		flags = device->flags;
	else if (ret == BPF_FIB_LKUP_RET_UNSUPP_LWT)
		flags = DEVICE_EGRESS_HOOK;
	else if (!o->local && !node_has_addr(family, r->to.daddr.word))
		return false;

	if (flags & DEVICE_TC_TRANSMITS && !o->local && !o->pod) {
		r->flags = FLOW_EXPRESS;
		r->hop = hop_learn(s, ret == BPF_FIB_LKUP_RET_SUCCESS, flags, generation, changes);
	} else if (flags & DEVICE_EGRESS_HOOK) {
		if (flags & DEVICE_POD)
			reply = ZONE_POD;
		r->flags = FLOW_SPLIT | reply * FLOW_MIRROR_ZONE;
	} else {
		return true;
	}
	return snat_source(family, device, r->to.saddr.word);
}

/* What the backend's record is, by the client's, whose packets are seen in `zone`. */
static __always_inline __u16 reply_flags(__u16 flags, enum zone zone)
{
	__u16 reply = FLOW_REPLY | zone * FLOW_MIRROR_ZONE | (flags & FLOW_BEGUN);

	if (flags & (FLOW_EXPRESS | FLOW_SPLIT))
		reply |= FLOW_EXPRESS | (flags & (FLOW_SPLIT | FLOW_TURN));
	return reply;
}

/*
 * What the backend's record holds instead of a next hop where the kernel routes
 * the answers: the device that the client's packets come in by, see return.h.
 */
static __always_inline __u64 reply_hop(const struct scratch *s, __u16 flags)
{
	if (flags & (FLOW_EXPRESS | FLOW_SPLIT) || s->packet.tuple.zone != ZONE_OUTSIDE)
		return 0;
	return (__u64)s->ifindex << 32 | HOP_INDEX_MASK;
}

/*
 * Whether an unconfirmed flow gives up its source port, s->record's, to one that makes
 * the given try. Notes the flow that has been silent for longest.
 */
static __always_inline bool unconfirmed_gives_way(const struct record *r, int try,
						  struct scratch *s)
{
	__s32 silence = now() - r->last_seen;

	if (try >= PORT_TAKE)
		return true;
	if (try >= PORT_LOOKS)
		return silence >= PORT_SILENCE;
	if (try && silence > s->oldest.silence) {
		s->oldest.silence = silence;
		s->oldest.port = s->record.to.sport;
	}
	return try && silence >= (__s32)hz;
}

/*
 * Whether the packet's flow, which is new, may have the tuple of the record
 * s->other: one that is dead; one that an earlier flow of this client left
 * behind, but that the backend may be in TIME_WAIT; or, to let strangers'
 * packets not use up all ports, one that is not confirmed.
 */
static __always_inline bool other_gives_way(int family, int try, struct scratch *s)
{
	const struct record *other = &s->other.record, *r = &s->record;
	bool confirmed = other->tag & STATE_CONFIRMED;

	if (!confirmed && unconfirmed_gives_way(other, try, s))
		return true;
	if (!(confirmed && r->flags & (FLOW_EXPRESS | FLOW_SPLIT)) &&
	    flow_mirrors(family, other, &s->packet.tuple, r))
		return true;
	return flow_ended(family, &s->other.key, other, &s->work.mirror);
}

/* Whether the flow is of datagrams that keep their source: then direct ones may have its answers' tuple. */
static __always_inline bool keeps_datagrams(const struct scratch *s)
{
	return s->packet.tuple.proto == IPPROTO_UDP &&
	       !(s->record.flags & (FLOW_EXPRESS | FLOW_SPLIT));
}

/*
 * Whether the client speaks to the endpoint directly, by UDP, from the port that its flow is to
 * have there. After some tries that does not matter any more: a flow that shares a tuple is better
 * than none, and nobody is to use up all ports by datagrams that are never answered.
 */
__noinline int port_is_direct(struct scratch *s, int try)
{
	enum zone zone;

	if (!s || try >= PORT_TAKE || !keeps_datagrams(s))
		return 0;
	zone = s->packet.tuple.zone;
	return direct_seen(direct_hash(s->mirror_hash, &s->mirror.key, zone), zone);
}

/*
 * Claims the reply's tuple, as the client's record has it, with the port of the given
 * try. 1: it is ours; 0: it is another's; -ENOSPC. Direct datagrams are looked for at first,
 * and again for those that another processor has noted since, see direct.h.
 */
__noinline int claim_reply(struct scratch *s, int try)
{
	struct record *reply;
	int family, ret;

	if (!s)
		return 0;
	family = packet_family(&s->packet);
	reply = &s->mirror.record;
	flow_mirror(family, &s->record, &s->mirror.key);
	s->mirror_hash = key_hash(family, &s->mirror.key);
	if (port_is_direct(s, try))
		return 0;
	*reply = s->record;
	reply->hop = reply_hop(s, s->record.flags);
	reply->tag = 0;
	reply->flags = reply_flags(s->record.flags, s->packet.tuple.zone);
	tuple_reverse(family, &s->packet.tuple, 0, &reply->to);
	if (flow_find_or_fetch(family, s->mirror_hash, &s->mirror.key, &s->other.record,
			       s->record.where)) {
		s->other.key = s->mirror.key;
		if (!other_gives_way(family, try, s))
			return 0;
		reply->where = s->other.record.where;
		reply->tag = s->other.record.tag;
	}
	ret = flow_claim(family, &s->mirror.key, reply, s->record.where, &s->work);
	if (ret != SETTLED_OWNER || !port_is_direct(s, try))
		return ret < 0 ? ret : ret == SETTLED_OWNER;
	flow_release(family, &s->mirror.key, reply->where, reply->tag);
	return 0;
}

/*
 * Finds the source port under which the backend will know the flow, and
 * records the reply under it. Where the address is the client's own, so is
 * the port if possible: it is not if the same client port already reaches
 * this backend through another frontend, or directly.
 */
static __always_inline int open_reply(int family, struct scratch *s)
{
	bool snat = s->record.flags & (FLOW_EXPRESS | FLOW_SPLIT);
	__u32 span = snat_max - snat_min + 1;
	__u32 pick = bpf_get_prandom_u32();
	__be16 port = s->packet.tuple.sport;
	int i, ret;

	s->oldest.silence = 0;
	s->oldest.port = 0;
	for (i = 0; i < PORT_TRIES; i++) {
		if (snat || i)
			port = bpf_htons(snat_min + (pick + i * PORT_STRIDE) % span);
		if (i == PORT_LOOKS && s->oldest.port)
			port = s->oldest.port;
		tuple_set_sport(&s->record.to, port);
		ret = claim_reply(s, i);
		if (ret > 0 || (ret && !flow_make_room(family, &s->mirror.key, &s->work)))
			return ret;
	}
	return 0;
}

/* Prepares the client's record, if need be after making room for it. */
static __always_inline bool open_client(int family, struct scratch *s)
{
	const struct tuple *t = &s->packet.tuple;

	return !flow_prepare(family, t, &s->record, SPARE_NONE, &s->work) ||
	       (flow_make_room(family, t, &s->work) &&
		!flow_prepare(family, t, &s->record, SPARE_NONE, &s->work));
}

/*
 * Records a split flow's third record, by the client's; what its state is says
 * s->record.state. -EEXIST: its tuple is that of another kind of flow, one to a
 * port of the SNAT range on the client.
 */
__noinline int open_split_source(struct scratch *s, __u32 spare)
{
	struct record *other;
	struct entry *source;
	int family;

	if (!s)
		return -EINVAL;
	family = packet_family(&s->packet);
	source = &s->source;
	other = &s->other.record;
	split_source_key(family, &s->packet.tuple, &s->record.to, &source->key);
	source->record = s->record;
	source->record.hop = 0;
	source->record.tag = 0;
	source->record.flags = FLOW_SPLIT_SOURCE | (s->record.flags & FLOW_MIRROR_ZONE_MASK);
	if (flow_find_or_fetch(family, key_hash(family, &source->key), &source->key, other,
			       s->mirror.record.where)) {
		/* a third record is an earlier flow's, that is over: no two have the same source port */
		s->other.key = source->key;
		if (!(other->flags & FLOW_SPLIT_SOURCE) &&
		    !flow_dead(family, &s->other, &s->work.mirror))
			return -EEXIST;
		source->record.where = other->where;
		source->record.tag = other->tag;
	}
	return flow_claim(family, &source->key, &source->record, spare, &s->work);
}

/* Records a split flow's third record, if need be after making room. Negative: there is none. */
static __always_inline int open_source(int family, struct scratch *s)
{
	int ret = open_split_source(s, s->mirror.record.where);

	if (ret == -ENOSPC && flow_make_room(family, &s->source.key, &s->work))
		ret = open_split_source(s, s->mirror.record.where);
	if (ret == SETTLED_LOST) /* to one of the same flow, on another processor */
		s->source.record.tag = 0;
	return ret;
}

static __always_inline bool key_equals(int family, const struct tuple *a, const struct tuple *b)
{
	return tuple_word(a) == tuple_word(b) && addr_equal(family, a->saddr.word, b->saddr.word) &&
	       addr_equal(family, a->daddr.word, b->daddr.word);
}

/*
 * Another processor has opened the flow: its client's record comes into
 * s->record, and our other records go. But where the client's source is kept,
 * both flows have the same reply's tuple, and by now that record is ours alone.
 */
__noinline int open_join(struct scratch *s, bool split)
{
	struct record *reply, *source;
	int family;
	bool found;

	if (!s)
		return VERDICT_DROP_ERROR;
	family = packet_family(&s->packet);
	reply = &s->mirror.record;
	source = &s->source.record;
	found = flow_lookup(family, &s->packet.tuple, &s->record);
	flow_mirror(family, &s->record, &s->other.key);
	if (found && key_equals(family, &s->other.key, &s->mirror.key))
		return VERDICT_NONE;
	flow_release(family, &s->mirror.key, reply->where, reply->tag);
	if (split && source->tag)
		flow_release(family, &s->source.key, source->where, source->tag);
	return found ? VERDICT_NONE : VERDICT_DROP_ERROR;
}

/*
 * Records a new flow, of which the client's record stands in s->record but for
 * the source port. If another processor has opened the flow meanwhile, that
 * one's stands there after, and the verdict is VERDICT_NONE. The client's
 * record gets its place first, so that the memory for both is waited for at one
 * time; but it is seen last.
 */
__noinline int open_records(struct scratch *s)
{
	const struct tuple *t;
	struct record *client;
	int family, ret;
	bool split;

	if (!s)
		return VERDICT_DROP_ERROR;
	family = packet_family(&s->packet);
	t = &s->packet.tuple;
	client = &s->record;
	split = client->flags & FLOW_SPLIT;
	if (!open_client(family, s))
		return VERDICT_DROP_FLOWS_FULL;
	ret = open_reply(family, s);
	if (ret <= 0) {
		flow_abandon(family, t, client);
		return ret ? VERDICT_DROP_FLOWS_FULL : VERDICT_DROP_SNAT_EXHAUSTED;
	}
	ret = split ? open_source(family, s) : 0;
	if (ret < 0) {
		flow_release(family, &s->mirror.key, s->mirror.record.where, s->mirror.record.tag);
		flow_abandon(family, t, client);
		return ret == -EEXIST ? VERDICT_DROP_SNAT_EXHAUSTED : VERDICT_DROP_FLOWS_FULL;
	}
	if (flow_settle(family, t, client, &s->work) == SETTLED_OWNER)
		return VERDICT_FLOW_OPENED;
	return open_join(s, split);
}

/*
 * Chooses a backend for a packet of no known flow that is for a frontend, and
 * begins the client's record, s->record. VERDICT_NONE: done.
 */
__noinline int open_choose(struct scratch *s, const struct service *svc)
{
	struct backend *backend;
	const struct packet *p;
	struct record *r;
	int family;
	__u32 id;

	if (!s || !svc)
		return VERDICT_DROP_ERROR;
	p = &s->packet;
	r = &s->record;
	r->service = svc->id;
	r->backend = 0;
	family = packet_family(p);
	if (p->tuple.zone == ZONE_OUTSIDE && node_has_addr(family, p->tuple.saddr.word))
		return VERDICT_NOT_OURS;
	/* the stack drops martians, too, but would not see these */
	if (p->tcp_flags & TCP_RST || !addr_is_sender(family, p->tuple.saddr.word))
		return VERDICT_DROP_NO_FLOW;
	if (p->fragment == FRAGMENT_LATER) /* its flow is gone; another would not know the first */
		return VERDICT_FRAGMENT;
	if (svc->flags & SERVICE_SOURCE_RANGES &&
	    !source_in_ranges(svc->id, &p->tuple.saddr, family))
		return VERDICT_DROP_SOURCE_RANGE;
	s->opening = opening_of(family, p, svc);
	id = backend_choose(svc, &p->tuple.saddr, family, s->opening.internal,
			    &s->opening.remembered);
	backend = id ? backend_get(id) : NULL;
	if (!backend) {
		if (svc->flags &
		    (s->opening.internal ? SERVICE_INTERNAL_DROP : SERVICE_EXTERNAL_DROP))
			return VERDICT_DROP_NO_LOCAL_ENDPOINT;
		return VERDICT_REFUSED;
	}
	s->opening.local = backend->flags & BACKEND_LOCAL;
	r->backend = id;
	r->last_seen = now();
	r->time = r->last_seen;
	r->state = p->tcp_flags & TCP_FIN ? STATE_FIN_CLIENT : 0;
	r->hop = 0;
	r->tag = 0;
	addr_copy(family, r->to.daddr.word, backend->addr);
	tuple_set_word(&r->to, (__u32)backend->port << 16, p->tuple.proto, p->tuple.zone);
	return VERDICT_NONE;
}

/*
 * Whether a packet from outside has the source of one of this node's pods: one that
 * the kernel would send there. It is the stack's to judge (rp_filter). Where something
 * rests on the source, a source range or being inside of the cluster, the FIB is asked
 * in any case: the agent may not know a new pod's route yet.
 */
static __always_inline bool source_is_pod(void *ctx, int family, __u32 ifindex,
					  const struct service *svc, struct scratch *s)
{
	const struct tuple *t = &s->packet.tuple;
	struct bpf_fib_lookup *fib = &s->fib;
	struct device *device;
	long ret;

	if (t->zone != ZONE_OUTSIDE)
		return false;
	if (!(svc->flags & SERVICE_SOURCE_RANGES || s->opening.internal ||
	      may_be_pod(family, &t->saddr)))
		return false;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->ifindex = ifindex;
	fib->tot_len = 1; /* see fib_lookup() */
	addr_copy(family, fib->ipv6_src, t->daddr.word);
	addr_copy(family, fib->ipv6_dst, t->saddr.word);
	ret = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	if ((ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH) ||
	    fib->ifindex == ifindex)
		return false;
	device = device_get(fib->ifindex);
	return device && device->flags & DEVICE_POD;
}

/* Opens a flow for a packet to a frontend, as open_records() says. */
static __always_inline int flow_open(void *ctx, int family, __u32 ifindex, __u32 mark,
				     const struct service *svc, struct scratch *s)
{
	int verdict = open_choose(s, svc);

	if (verdict != VERDICT_NONE)
		return verdict;
	if (source_is_pod(ctx, family, ifindex, svc, s))
		return VERDICT_NOT_OURS;
	if (!route_new(ctx, family, ifindex, mark, s))
		return VERDICT_DROP_NO_ROUTE;
	if (keeps_datagrams(s))
		flow_note_datagrams(family);
	return open_records(s);
}

#endif
