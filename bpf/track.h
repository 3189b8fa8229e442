/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_TRACK_H
#define WAGGLE_TRACK_H

#include "open.h"

/* A first ACK further ahead than this was not sent by who got the SYN-ACK. */
#define ACK_WINDOW 65536

static __always_inline void state_set(struct flow *f, __u32 bits)
{
	__sync_fetch_and_or(&f->state, bits);
}

/* The live other half of a flow, or NULL. */
static __always_inline struct flow *mirror_get(int family, bool confirmed, const struct flow *f,
					       const struct tuple *t, struct tuple *mirror)
{
	struct flow *m;

	flow_mirror(family, f, t, mirror);
	m = flow_lookup(family, confirmed, mirror);
	if (m && flow_mirrors(family, m, t, f->flags & FLOW_EGRESS_HALF))
		return m;
	return NULL;
}

/* Makes the lost half of a flow from the one at hand. NULL: its place is taken. */
static __always_inline struct flow *mirror_restore(int family, const struct flow *f,
						   const struct tuple *t,
						   const struct tuple *mirror, struct scratch *s)
{
	struct flow *half = &s->pending.mirror_flow;

	/* not lost, but taken away: this is a late answer (stale.c) */
	if (f->flags & FLOW_REPLY && t->proto == IPPROTO_UDP &&
	    !backend_keeps(family, f->backend, f->service, t->saddr.word, t->sport))
		return NULL;
	*half = *f;
	half->hop.epoch = 0;
	if (!(f->flags & FLOW_REPLY))
		half->flags = reply_flags(f->flags);
	else if (t->egress)
		half->flags = FLOW_MIRROR_EGRESS;
	else
		half->flags = f->flags & FLOW_SPLIT ? FLOW_SPLIT : FLOW_EXPRESS;
	tuple_reverse(family, t, f->flags & FLOW_MIRROR_EGRESS, &s->pending.back);
	if (flow_insert(family, false, mirror, half, &s->pending.back, BPF_NOEXIST))
		return NULL;
	if (!flow_lookup(family, true, mirror))
		return flow_lookup(family, false, mirror);
	flow_delete(family, false, mirror);
	return NULL;
}

/* The client has acknowledged the answer: the flow moves to `flows`. */
static __always_inline bool flow_confirm(int family, struct flow *f, const struct tuple *t,
					 enum hook hook, struct scratch *s)
{
	struct tuple *to = &s->pending.to, *mirror = &s->pending.mirror;
	struct flow *copy = &s->pending.flow;
	struct flow *m;

	*copy = *f;
	copy->state |= STATE_CONFIRMED;
	flow_rewrite(family, f, t, to);
	m = mirror_get(family, false, f, t, mirror);
	if (!m)
		return false;
	state_set(m, STATE_CONFIRMED);
	tuple_reverse(family, t, mirror->egress, &s->pending.back);
	if (flow_insert(family, true, mirror, m, &s->pending.back, BPF_ANY))
		goto full;
	if (copy->flags & FLOW_SPLIT && open_egress_half(family, true, copy, t, to, s))
		goto full;
	if (flow_insert(family, true, t, copy, to, BPF_ANY))
		goto full;

	flow_delete(family, false, t);
	flow_delete(family, false, mirror);
	if (copy->flags & FLOW_SPLIT) {
		flow_egress_half(family, t, to, &s->pending.half);
		flow_delete(family, false, &s->pending.half);
	}
	count(hook, VERDICT_FLOW_CONFIRMED, 0);
	return true;
full:
	flow_delete(family, true, mirror);
	if (copy->flags & FLOW_SPLIT) {
		flow_egress_half(family, t, to, &s->pending.half);
		flow_delete(family, true, &s->pending.half);
	}
	count(hook, VERDICT_FLOWS_FULL, 0);
	return false;
}

/*
 * The backend's half of an unconfirmed flow: remember that it answered. The
 * client's may have been evicted since, even if this is not the first answer.
 */
static __always_inline void pending_reply(int family, struct flow *f, const struct packet *p,
					  struct scratch *s)
{
	struct tuple *mirror = &s->pending.mirror;
	struct flow *m;

	if (p->tcp_flags & TCP_RST)
		return;
	m = mirror_get(family, false, f, &p->tuple, mirror);
	if (m && f->state & STATE_ANSWERED && !(p->tcp_flags & TCP_SYN))
		return;
	if (!m)
		m = mirror_restore(family, f, &p->tuple, mirror, s);
	if (!m)
		return;
	m->expect_ack = p->seq + !!(p->tcp_flags & TCP_SYN);
	state_set(m, STATE_ANSWERED);
	state_set(f, STATE_ANSWERED);
}

static __always_inline bool acknowledges(const struct flow *f, const struct packet *p)
{
	if (!(f->state & STATE_ANSWERED))
		return false;
	if (p->tuple.proto == IPPROTO_UDP)
		return true;
	if ((p->tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK)
		return false;
	/* a tag of 0: the backend knew the client before we did */
	if (p->tuple.proto == IPPROTO_SCTP)
		return !f->expect_ack || p->ack == f->expect_ack;
	return p->ack - f->expect_ack < ACK_WINDOW;
}

/*
 * The client's half: what goes with it may have been evicted. False: the
 * backend knows another flow by our source by now, so the client starts anew.
 */
static __always_inline int pending_repair(int family, const struct flow *f, const struct tuple *t)
{
	struct scratch *s = scratch();
	struct tuple *to, *mirror;

	if (!s)
		return false;
	to = &s->pending.to;
	mirror = &s->pending.mirror;
	if (!mirror_get(family, false, f, t, mirror) && !mirror_restore(family, f, t, mirror, s) &&
	    !mirror_get(family, false, f, t, mirror)) {
		flow_delete(family, false, t);
		return false;
	}
	if (!(f->flags & FLOW_SPLIT))
		return true;
	flow_rewrite(family, f, t, to);
	flow_egress_half(family, t, to, &s->pending.half);
	if (!flow_lookup(family, false, &s->pending.half))
		open_egress_half(family, false, f, t, to, s);
	return true;
}

__noinline int pending_repair4(const struct flow4 *f, const struct tuple *t)
{
	return f && t ? pending_repair(AF_INET, &f->flow, t) : 0;
}

__noinline int pending_repair6(const struct flow6 *f, const struct tuple *t)
{
	return f && t ? pending_repair(AF_INET6, &f->flow, t) : 0;
}

/* True: the flow has moved to `flows`. */
static __always_inline bool track_pending(int family, struct flow *f, const struct packet *p,
					  enum hook hook)
{
	struct scratch *s = scratch();

	if (!s || f->flags & FLOW_EGRESS_HALF)
		return false;
	if (f->flags & FLOW_REPLY) {
		pending_reply(family, f, p, s);
		return false;
	}
	if (!acknowledges(f, p))
		return false;
	if (flow_confirm(family, f, &p->tuple, hook, s))
		return true;
	/* no room: keep up with the client, to try again with its next packet */
	f->expect_ack = p->ack;
	return false;
}

__noinline int track_pending4(struct flow4 *f, const struct packet *p, int hook)
{
	return f && p ? track_pending(AF_INET, &f->flow, p, hook) : 0;
}

__noinline int track_pending6(struct flow6 *f, const struct packet *p, int hook)
{
	return f && p ? track_pending(AF_INET6, &f->flow, p, hook) : 0;
}

/* FIN or RST: both halves know, whichever saw it. */
static __always_inline int track_close(int family, bool confirmed, struct flow *f,
				       const struct packet *p)
{
	struct tuple mirror;
	struct flow *m;
	__u32 bits;

	if (p->tcp_flags & TCP_RST)
		bits = STATE_RESET;
	else
		bits = f->flags & FLOW_REPLY ? STATE_FIN_BACKEND : STATE_FIN_CLIENT;
	if (f->state & bits)
		return 0;
	state_set(f, bits);
	if (confirmed)
		m = mirror_get(family, true, f, &p->tuple, &mirror);
	else
		m = mirror_get(family, false, f, &p->tuple, &mirror);
	if (m)
		state_set(m, bits);
	return 0;
}

__noinline int track_close4(struct flow4 *f, const struct packet *p, int confirmed)
{
	return f && p ? track_close(AF_INET, confirmed, &f->flow, p) : 0;
}

__noinline int track_close6(struct flow6 *f, const struct packet *p, int confirmed)
{
	return f && p ? track_close(AF_INET6, confirmed, &f->flow, p) : 0;
}

/* Follows a flow's state. Its record may move, so have read it before. */
static __always_inline void flow_track(int family, bool confirmed, struct flow *f,
				       const struct packet *p, enum hook hook)
{
	if (now() - f->last_seen >= hz)
		f->last_seen = now();
	if (p->fragment == FRAGMENT_LATER)
		return;
	if (family == AF_INET) {
		if (p->tcp_flags & (TCP_FIN | TCP_RST))
			track_close4((void *)f, p, confirmed);
		if (!confirmed)
			track_pending4((void *)f, p, hook);
	} else {
		if (p->tcp_flags & (TCP_FIN | TCP_RST))
			track_close6((void *)f, p, confirmed);
		if (!confirmed)
			track_pending6((void *)f, p, hook);
	}
}

/*
 * A record that must not be used: dead, or closed and somebody starts anew.
 * The client does with a SYN; the backend answers one that we didn't see, since
 * it came to the backend's own address, with a SYN-ACK.
 */
static __always_inline bool flow_ended(int family, bool confirmed, const struct flow *f,
				       const struct packet *p)
{
	__u8 start = f->flags & FLOW_REPLY ? TCP_SYN | TCP_ACK : TCP_SYN;

	if (flow_stale(f, p->tuple.proto))
		return flow_dead(family, confirmed, f, &p->tuple);
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != start || !flow_closed(f))
		return false;
	return !(f->flags & FLOW_EGRESS_HALF) &&
	       (f->flags & (FLOW_REPLY | FLOW_EXPRESS)) != (FLOW_REPLY | FLOW_EXPRESS);
}

/* Who says hello is probably in neither table: then both are waited for at a time. */
static __always_inline struct flow *flow_lookup_ahead(int family, bool confirmed,
						      const struct packet *p)
{
	union flow_key key;

	flow_key(family, &p->tuple, &key);
	if (confirmed && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		new_flow_prefetch(family, &key);
	return flow_at(family, confirmed, &key);
}

static __always_inline struct flow *flow_find(int family, bool confirmed, const struct packet *p)
{
	struct flow *f = flow_lookup_ahead(family, confirmed, p);

	if (!f || !flow_ended(family, confirmed, f, p))
		return f;
	flow_delete(family, confirmed, &p->tuple);
	return NULL;
}

/* As flow_find(), of a flow that is not confirmed, and whole again. */
static __always_inline struct flow *pending_find(int family, const struct packet *p)
{
	struct flow *f = flow_find(family, false, p);
	bool whole;

	if (!f || f->flags & (FLOW_REPLY | FLOW_EGRESS_HALF))
		return f;
	whole = family == AF_INET ? pending_repair4((void *)f, &p->tuple)
				  : pending_repair6((void *)f, &p->tuple);
	return whole ? f : NULL;
}

static __always_inline bool in_snat_range(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return host >= snat_min && host <= snat_max;
}

/* A record to apply, and the table that holds it. */
struct found {
	struct flow *flow;
	bool confirmed;
	bool opened; /* by this packet: there is nothing to follow yet */
};

/*
 * Finds or makes the record of a packet that enters the node; of a flow that it
 * opens, a copy. Sets found->flow, or returns a final verdict. flows_new is only
 * asked for what can be in it: packets to a frontend, and answers to SNAT.
 */
static __always_inline enum verdict ingress_flow(void *ctx, int family, __u32 ifindex,
						 const struct packet *p, enum hook hook,
						 struct found *found)
{
	bool internal = hook == HOOK_TC_POD;
	enum verdict verdict;
	struct service *svc;
	struct scratch *s;

	found->confirmed = true;
	found->flow = flow_find(family, true, p);
	if (found->flow)
		return VERDICT_COUNT;
	found->confirmed = false;
	if (in_snat_range(p->tuple.dport)) {
		found->flow = pending_find(family, p);
		if (found->flow)
			return VERDICT_COUNT;
	}
	svc = service_lookup(family, p->tuple.daddr.word, p->tuple.dport, p->tuple.proto, false);
	if (!svc)
		return VERDICT_NOT_OURS;
	found->flow = pending_find(family, p);
	if (found->flow)
		return VERDICT_COUNT;
	verdict = flow_open(ctx, family, ifindex, p, svc, internal);
	if (verdict != VERDICT_FLOW_OPENED)
		return verdict;
	count(hook, VERDICT_FLOW_OPENED, 0);
	s = scratch();
	if (!s)
		return VERDICT_DROP_ERROR;
	found->flow = &s->open.record.flow;
	found->opened = true;
	return VERDICT_COUNT;
}

#endif
