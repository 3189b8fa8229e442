/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_TRACK_H
#define WAGGLE_TRACK_H

#include "open.h"
#include "watch.h"

/* A first ACK further ahead than this was not sent by who got the SYN-ACK. */
#define ACK_WINDOW 65536

/* What the other record of the packet's flow is, by the one at hand. */
static __always_inline __u16 mirror_flags(const struct record *r, enum zone zone)
{
	if (!(r->flags & FLOW_REPLY))
		return reply_flags(r->flags, zone);
	if (!(r->flags & FLOW_EXPRESS))
		return zone * FLOW_MIRROR_ZONE | (r->flags & FLOW_BEGUN);
	return (r->flags & FLOW_SPLIT ? FLOW_SPLIT : FLOW_EXPRESS) | (r->flags & FLOW_TURN) |
	       zone * FLOW_MIRROR_ZONE;
}

/*
 * Makes the other record of the packet's flow anew, from the one at hand, in
 * s->mirror, whose key is set. False: its tuple is another's.
 */
static __always_inline bool mirror_restore(int family, __u32 state, struct scratch *s)
{
	const struct tuple *t = &s->packet.tuple;
	struct record *r = &s->record, *m = &s->mirror.record;

	/* not lost, but taken away: this is a late answer (stale.c) */
	if (r->flags & FLOW_REPLY && t->proto == IPPROTO_UDP &&
	    !backend_keeps(family, r->backend, r->service, t->saddr.word, t->sport))
		return false;
	*m = *r;
	m->hop = r->flags & FLOW_REPLY ? 0 : reply_hop(s, r->flags);
	m->tag = 0;
	/* a client's record says so only with what it expects, see track_answer() */
	m->state = r->flags & FLOW_REPLY ? state & ~STATE_ANSWERED : state;
	m->last_seen = r->time;
	m->flags = mirror_flags(r, t->zone);
	tuple_reverse(family, t, 0, &m->to);
	if (flow_claim(family, &s->mirror.key, m, r->where, &s->work) == SETTLED_OWNER)
		return true;
	/* another processor may have made it at the same time */
	return flow_lookup(family, &s->mirror.key, m) && flow_mirrors(family, m, t, r);
}

/* The other record of the packet's flow, in s->mirror; made anew if it was lost. */
__noinline int mirror_get(struct scratch *s, __u32 state)
{
	struct record *m;
	int family;

	if (!s)
		return 0;
	family = packet_family(&s->packet);
	m = &s->mirror.record;
	flow_mirror(family, &s->record, &s->mirror.key);
	if (!flow_lookup(family, &s->mirror.key, m))
		return mirror_restore(family, state, s);
	if (!flow_mirrors(family, m, &s->packet.tuple, &s->record)) /* another flow's */
		return 0;
	if (!(m->tag & STATE_CONFIRMED))
		flow_touch(family, m->where);
	return 1;
}

/*
 * Whether one of the flow's records may be confirmed. Two datagrams of a forged
 * source confirm a UDP flow: they must not fill the table.
 */
static __always_inline bool leaves_room(int family, __u32 where, const struct scratch *s)
{
	return s->packet.tuple.proto != IPPROTO_UDP ||
	       !flow_crowded(family, where, s->record.where, s->mirror.record.where);
}

/*
 * The third record of a split flow: made anew if it was lost, and marked. False:
 * there is no room for it, or only that of the reply in s->mirror.
 */
static __always_inline bool split_source_mark(int family, __u32 bits, struct scratch *s)
{
	struct entry *source = &s->source;
	struct record *reply = &s->mirror.record;

	split_source_key(family, &s->packet.tuple, &s->record.to, &source->key);
	if (flow_lookup(family, &source->key, &source->record)) {
		if (bits & STATE_CONFIRMED && !leaves_room(family, source->record.where, s))
			return false;
		if (record_mark(family, &source->record, bits))
			return true;
	}
	s->record.state = (s->record.tag & STATE_MASK) | bits;
	return open_split_source(s, s->record.where) >= 0 && record_mark(family, reply, 0);
}

static __always_inline bool same_rewrite(int family, const struct record *a, const struct record *b)
{
	return addr_equal(family, a->to.saddr.word, b->to.saddr.word) &&
	       addr_equal(family, a->to.daddr.word, b->to.daddr.word) &&
	       tuple_ports(&a->to) == tuple_ports(&b->to);
}

/* The client's record was replaced at this instant: it comes back, if no other has its tuple. */
static __always_inline bool client_restore(int family, __u32 state, struct scratch *s)
{
	struct record *r = &s->record, *other = &s->other.record;
	const struct tuple *t = &s->packet.tuple;

	r->tag = 0;
	r->state = state;
	if (flow_claim(family, t, r, s->mirror.record.where, &s->work) == SETTLED_OWNER)
		return true;
	if (!flow_lookup(family, t, other) || !same_rewrite(family, r, other))
		return false;
	*r = *other;
	return record_mark(family, r, STATE_CONFIRMED);
}

/*
 * Sees to it that the reply of a confirmed client's record, s->record, is there
 * and confirmed. Where it can't be, the client's record ends: the other records
 * of one that is confirmed are not looked after.
 */
__noinline int mirror_confirm(struct scratch *s)
{
	__u32 state, i;

	if (!s)
		return 0;
	state = (s->record.tag & STATE_MASK) | STATE_CONFIRMED;
	/* strangers may take the reply's place between the look and the mark */
	for (i = 0; i < 4; i++) {
		if (!mirror_get(s, state))
			break;
		if (record_mark(s->packet.family, &s->mirror.record, STATE_CONFIRMED))
			return 1;
	}
	flow_end(s->packet.family, &s->packet.tuple, s->record.where, s->record.tag);
	return 0;
}

/*
 * The client has acknowledged the answer: from now on the flow's records give
 * way to none. The client's comes last: while it is not confirmed each of its
 * packets sees to it that the others are there. False: the reply's tuple is
 * another flow's, or the client's is.
 */
static __always_inline bool flow_confirm(int family, struct scratch *s)
{
	struct record *r = &s->record, *m = &s->mirror.record;
	__u32 state = (r->tag & STATE_MASK) | STATE_CONFIRMED;

	if (!mirror_get(s, state))
		return false;
	if (!leaves_room(family, r->where, s) || !leaves_room(family, m->where, s))
		return false;
	/* first, for it ends with the others: a confirmed reply left alone would keep its place for a day */
	if (r->flags & FLOW_SPLIT && !split_source_mark(family, STATE_CONFIRMED, s))
		return false;
	if (!record_mark(family, m, STATE_CONFIRMED))
		return false;
	if (!record_mark(family, r, STATE_CONFIRMED) && !client_restore(family, state, s)) {
		flow_release(family, &s->mirror.key, m->where, m->tag);
		/* another processor may have brought the client's back meanwhile */
		if (!flow_lookup(family, &s->packet.tuple, r) || !(r->tag & STATE_CONFIRMED))
			return false;
	}
	/* who failed to confirm it may have released the reply, or another have made it anew */
	return mirror_confirm(s);
}

/*
 * SCTP's shutdown chunks are sent by hosts that know of no association, too
 * (RFC 9260, 8.4): they are no answer, and acknowledge none.
 */
static __always_inline bool proves_nothing(const struct packet *p)
{
	if (p->tuple.proto == IPPROTO_SCTP && p->tcp_flags & TCP_FIN)
		return true;
	return p->tcp_flags & TCP_RST;
}

/* The backend's packet of an unconfirmed flow: the client's record says that it answered. */
static __always_inline void track_answer(int family, struct scratch *s)
{
	struct record *r = &s->record, *m = &s->mirror.record;
	const struct packet *p = &s->packet;

	if (proves_nothing(p) || !mirror_get(s, r->tag))
		return;
	if (m->tag & r->tag & STATE_ANSWERED && !(p->tcp_flags & TCP_SYN))
		return;
	if (p->tcp_flags & TCP_SYN)
		stats_connected(family, r->where);
	flow_expect(family, m, p->seq + !!(p->tcp_flags & TCP_SYN));
	record_mark(family, m, STATE_ANSWERED);
	record_mark(family, r, STATE_ANSWERED);
}

static __always_inline bool acknowledges(const struct record *r, const struct packet *p)
{
	if (!(r->tag & STATE_ANSWERED) || proves_nothing(p))
		return false;
	if (p->tuple.proto == IPPROTO_UDP)
		return true;
	if ((p->tcp_flags & (TCP_ACK | TCP_SYN)) != TCP_ACK)
		return false;
	/* a tag of 0: the backend knew the client before we did */
	if (p->tuple.proto == IPPROTO_SCTP)
		return !r->expect || p->ack == r->expect;
	return p->ack - r->expect < ACK_WINDOW;
}

/* As record_mark(). Returns whether this is what has closed the flow. */
static __always_inline bool record_close(int family, struct record *r, __u32 bits)
{
	__u32 before = flow_mark(family, r->where, r->tag, bits);

	if (!before)
		return false;
	r->tag |= bits;
	return !flow_closed(before) && flow_closed(before | bits);
}

/*
 * FIN or RST: both records say so, whichever saw it. Returns whether the flow is
 * closed from now on: the client's record says that, to one processor.
 */
static __always_inline bool track_close(int family, struct scratch *s)
{
	struct record *r = &s->record;
	bool own, other;
	__u32 bits;

	if (s->packet.tcp_flags & TCP_RST)
		bits = STATE_RESET;
	else
		bits = r->flags & FLOW_REPLY ? STATE_FIN_BACKEND : STATE_FIN_CLIENT;
	if (r->tag & bits)
		return false;
	own = record_close(family, r, bits);
	other = own;
	if (mirror_lookup(family, &s->packet.tuple, r, &s->mirror))
		other = record_close(family, &s->mirror.record, bits);
	if (r->flags & (FLOW_SPLIT_SOURCE | FLOW_FOREIGN))
		return false;
	return r->flags & FLOW_REPLY ? other : own;
}

/*
 * The flow is closed from now on. Most have few packets after that: what it had is added up
 * at once, since no walk may come by for a minute.
 */
static __always_inline void flow_closes(int family, struct scratch *s, enum hook hook)
{
	flow_event(s, hook, VERDICT_FLOW_CLOSED);
	flow_fold(family, s->record.where);
	/* any other flow's, if there is no such record any more */
	flow_fold(family, s->mirror.record.where);
}

/* Follows the state of the packet's flow. See track_is_due(). */
__noinline int track_record(struct scratch *s, int hook)
{
	const struct packet *p;
	struct record *r;
	int family;

	if (!s)
		return 0;
	p = &s->packet;
	r = &s->record;
	family = packet_family(p);
	if (seen_a_while_ago(r)) {
		flow_seen(family, r);
		flow_fold(family, r->where);
	}
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	if (p->tcp_flags & (TCP_FIN | TCP_RST) && track_close(family, s))
		flow_closes(family, s, hook);
	if (r->tag & STATE_CONFIRMED || r->flags & FLOW_SPLIT_SOURCE)
		return 0;
	if (r->flags & FLOW_REPLY)
		track_answer(family, s);
	else if (acknowledges(r, p) && flow_confirm(family, s))
		flow_event(s, hook, VERDICT_FLOW_CONFIRMED);
	return 0;
}

/* False: the packet is one of the many that change nothing about an established flow. */
static __always_inline bool track_is_due(const struct packet *p, const struct record *r)
{
	return p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || !(r->tag & STATE_CONFIRMED) ||
	       seen_a_while_ago(r);
}

static __always_inline void flow_track(struct scratch *s, enum hook hook)
{
	if (track_is_due(&s->packet, &s->record))
		track_record(s, hook);
}

/*
 * Whether a closed connection starts anew. The client does so with a SYN; the
 * backend answers one that we did not see, since it came to the backend's own
 * address, with a SYN-ACK.
 */
static __always_inline bool starts_anew(const struct packet *p, const struct record *r)
{
	__u8 start = r->flags & FLOW_REPLY ? TCP_SYN | TCP_ACK : TCP_SYN;

	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != start || !flow_closed(r->tag))
		return false;
	return !(r->flags & FLOW_SPLIT_SOURCE) &&
	       (r->flags & (FLOW_REPLY | FLOW_EXPRESS)) != (FLOW_REPLY | FLOW_EXPRESS);
}

/*
 * Whether the packet at hand, an answer by its record, belongs to a connection that
 * the client has directly with the endpoint, from the port that a flow to the
 * service has taken since. What answers a SYN is a SYN-ACK or a reset; but an
 * endpoint that has the connection already sends an ACK (RFC 5961, 4.2), or what
 * the connection carries.
 */
static __always_inline bool answers_directly(const struct packet *p, const struct record *r)
{
	if ((r->flags & (FLOW_REPLY | FLOW_EXPRESS | FLOW_BEGUN)) != (FLOW_REPLY | FLOW_BEGUN))
		return false;
	return !(r->tag & (STATE_ANSWERED | STATE_CONFIRMED)) && p->fragment != FRAGMENT_LATER &&
	       !(p->tcp_flags & (TCP_SYN | TCP_RST));
}

/* How often the tuple is claimed that a client's packet, on another processor, brings back for the service. */
#define GIVE_TRIES 4

/*
 * Gives the tuple of the answer at hand to the direct connection. The flow to the
 * service has lost it: the client's next SYN opens another, with another source port.
 * A SYN that looks for the answer's record at this very instant finds none, and makes
 * it anew. False: so it did each time, and the packet is left as it is.
 */
static __always_inline bool give_to_direct(int family, struct scratch *s)
{
	const struct tuple *t = &s->packet.tuple;
	struct record *r = &s->record;
	int i;

	for (i = 0; i < GIVE_TRIES; i++) {
		r->service = 0;
		r->backend = 0;
		r->last_seen = r->time;
		r->state = 0;
		r->hop = 0;
		r->flags = FLOW_REPLY | (r->flags & FLOW_MIRROR_ZONE_MASK);
		addr_copy(family, r->to.saddr.word, t->saddr.word);
		addr_copy(family, r->to.daddr.word, t->daddr.word);
		tuple_set_word(&r->to, tuple_ports(t), t->proto, t->zone);
		if (flow_claim(family, t, r, SPARE_NONE, &s->work) == SETTLED_OWNER)
			return true;
		if (!flow_lookup(family, t, r))
			return false;
		if (!answers_directly(&s->packet, r)) /* another processor has done it */
			return true;
	}
	return false;
}

/*
 * Whether the record that was found may be used; see track_is_due() for who
 * need not ask. One that may not is ended. What goes with an unconfirmed
 * client's record may have been replaced, and is made anew. Where the backend
 * knows another flow by our source by now, the client starts anew.
 */
__noinline int record_usable(struct scratch *s)
{
	const struct packet *p;
	struct record *r;
	int family;

	if (!s)
		return 0;
	p = &s->packet;
	r = &s->record;
	family = packet_family(p);
	if (starts_anew(p, r) || flow_ended(family, &p->tuple, r, &s->mirror))
		goto end;
	if (r->tag & STATE_CONFIRMED)
		return 1;
	flow_touch(family, r->where);
	if (answers_directly(p, r))
		return give_to_direct(family, s);
	if (r->flags & (FLOW_REPLY | FLOW_SPLIT_SOURCE))
		return 1;
	if (!mirror_get(s, r->tag))
		goto end;
	/* an answer may be on its way: its record is not to count as silent, see open.h */
	if (s->mirror.record.last_seen != r->time)
		flow_seen(family, &s->mirror.record);
	if (r->flags & FLOW_SPLIT && !split_source_mark(family, 0, s))
		goto end;
	return 1;
end:
	note_ended(r);
	flow_release(family, &p->tuple, r->where, r->tag);
	return 0;
}

/* Finds the record of the packet. False: there is none that may be used. */
static __always_inline bool flow_of_packet(int family, struct scratch *s)
{
	if (!flow_find(family, &s->packet.tuple, &s->record))
		return false;
	return !track_is_due(&s->packet, &s->record) || record_usable(s);
}

/* Another processor has opened the flow of this packet: its reply is there, and confirmed if the client is. */
static __always_inline void flow_joined(struct scratch *s)
{
	if (s->record.tag & STATE_CONFIRMED)
		mirror_confirm(s);
	else
		mirror_get(s, s->record.tag & STATE_MASK);
}

/*
 * Begins the client's record of the packet at hand, s->record: it is to keep its
 * addresses and, if no other flow's answers have the same tuple as its own, its
 * source port. `reply` is where its answers are seen.
 */
static __always_inline void choose_untranslated(int family, struct scratch *s, enum zone reply)
{
	const struct packet *p = &s->packet;
	struct record *r = &s->record;

	r->service = 0;
	r->backend = 0;
	r->last_seen = now();
	r->time = r->last_seen;
	r->state = s->packet.tcp_flags & TCP_FIN ? STATE_FIN_CLIENT : 0;
	r->hop = 0;
	r->tag = 0;
	r->flags = reply * FLOW_MIRROR_ZONE;
	addr_copy(family, r->to.saddr.word, p->tuple.saddr.word);
	addr_copy(family, r->to.daddr.word, p->tuple.daddr.word);
	tuple_set_word(&r->to, tuple_ports(&p->tuple), p->tuple.proto, p->tuple.zone);
}

/* As open_records(), of such a record: what can't be recorded is left to the stack. */
static __always_inline int open_untranslated(struct scratch *s)
{
	int verdict = open_records(s);

	return verdict == VERDICT_FLOW_OPENED || verdict == VERDICT_NONE ? verdict
									 : VERDICT_NOT_OURS;
}

/* An answer of a server is no beginning: its client's packets opened no flow either. */
static __always_inline bool begins_here(const struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return false;
	return p->tuple.proto == IPPROTO_UDP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * A client speaks to an endpoint directly, from the port that it has a flow
 * to a service with, which leads to the same endpoint: that one could not
 * distinguish the two, and the answers of both would be taken for the service's. So
 * the newcomer gets another port. VERDICT_NONE: it is one, and its record is begun.
 * Any datagram may be a newcomer, and the look costs as much as all else that
 * is done for one that is not ours: most nodes have no flows that ask for it. Each
 * is noted, as it may be followed by the service's (direct.h).
 */
__noinline int choose_beside(struct scratch *s, int hook)
{
	const struct packet *p;
	struct entry *reply;
	bool udp;
	int family;
	__u64 hash;

	if (!s)
		return VERDICT_NOT_OURS;
	p = &s->packet;
	reply = &s->other;
	family = packet_family(p);
	if (!begins_here(p))
		return VERDICT_NOT_OURS;
	udp = p->tuple.proto == IPPROTO_UDP;
	if (udp && hook == HOOK_XDP && !flow_has_datagrams(family))
		return VERDICT_NOT_OURS;
	tuple_reverse(family, &p->tuple, ZONE_LEAVING, &reply->key);
	hash = key_hash(family, &reply->key);
	if (udp && hook != HOOK_XDP) { /* what XDP passes on comes by tc */
		direct_note(direct_hash(hash, &reply->key, p->tuple.zone), p->tuple.zone);
		if (!flow_has_datagrams(family)) /* read after the note, see direct.h */
			return VERDICT_NOT_OURS;
	}
	if (!flow_find_any(family, 0, hash, &reply->key, &reply->record) ||
	    !(reply->record.flags & FLOW_REPLY) || flow_dead(family, reply, &s->work.mirror))
		return VERDICT_NOT_OURS;
	choose_untranslated(family, s, ZONE_LEAVING);
	return VERDICT_NONE;
}

static __always_inline void flow_opened(int family, enum hook hook, struct scratch *s)
{
	const struct packet *p = &s->packet;

	flow_event(s, hook, VERDICT_FLOW_OPENED);
	s->opened = true;
	if (p->tuple.proto == IPPROTO_TCP && p->tcp_flags & TCP_SYN)
		stats_begun(family, s->mirror.record.where);
}

/*
 * Counts the packet for its flow, if it was rewritten. The one that has opened the flow is
 * counted with that, and not in the record: then a flood's records have nothing to be folded.
 */
static __always_inline void count_flow(int family, bool rewritten, __u32 bytes, struct scratch *s)
{
	if (s->opened) {
		s->opened = false;
		stats_opened(s->record.backend, rewritten ? bytes : 0);
	} else if (rewritten) {
		flow_count(family, &s->record, bytes);
	}
}

/*
 * Finds or makes the record of a packet that enters the node. VERDICT_NONE:
 * s->record is a copy of it, or VERDICT_FLOW_OPENED, if it is this packet that
 * has opened the flow, of which there is nothing to follow yet. Any other
 * verdict is final.
 */
static __always_inline enum verdict ingress_flow(void *ctx, int family, __u32 ifindex, __u32 mark,
						 enum hook hook, struct scratch *s)
{
	const struct tuple *t = &s->packet.tuple;
	enum verdict verdict;
	struct service *svc;

	if (flow_of_packet(family, s))
		return VERDICT_NONE;
	svc = service_lookup(family, t->daddr.word, t->dport, t->proto, false);
	note_frontend(svc);
	s->record.service = svc ? svc->id : 0;
	if (!svc)
		verdict = choose_beside(s, hook) == VERDICT_NONE ? open_untranslated(s)
								 : VERDICT_NOT_OURS;
	else if (socket_owns(ctx, family, s))
		verdict = VERDICT_NOT_OURS;
	else
		verdict = flow_open(ctx, family, ifindex, mark, svc, s);
	if (verdict == VERDICT_FLOW_OPENED)
		flow_opened(family, hook, s);
	else if (verdict == VERDICT_NONE)
		flow_joined(s);
	return verdict;
}

#endif
