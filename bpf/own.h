/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OWN_H
#define WAGGLE_OWN_H

#include "track.h"

/*
 * The node's own connections: those of its processes, and those of pods that
 * netfilter has given an address of the node. Some leave from a port that
 * flows of ours use, too: a NodePort, or one of the range for SNAT. Their
 * answers would open a flow to a service, or be taken for those of a flow that
 * has the same port towards the same peer. So they are recorded as flows when
 * they leave: client is the node, and nothing is rewritten. But if a flow of
 * ours has the tuple already, the newcomer gets another source port, as
 * netfilter would do. Whoever comes later finds that the tuple has an owner.
 */

static __always_inline bool port_is_shared(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return is_nodeport(port) || (host >= snat_min && host <= snat_max);
}

/* An answer of a server is no beginning: its client's packets opened no flow either. */
static __always_inline bool begins_here(const struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return false;
	return p->tuple.proto == IPPROTO_UDP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * Records the flow of a packet that leaves, as open_records() does. `reply` is
 * where its answers come in. VERDICT_NONE and VERDICT_FLOW_OPENED: s->record is
 * the client's.
 */
__noinline int own_record(struct scratch *s, enum zone reply)
{
	const struct packet *p;
	struct record *r;
	int family;

	if (!s)
		return VERDICT_NOT_OURS;
	p = &s->packet;
	r = &s->record;
	family = packet_family(p);
	if (!begins_here(p) || !node_has_addr(family, p->tuple.saddr.word))
		return VERDICT_NOT_OURS;
	r->service = 0;
	r->backend = 0;
	r->last_seen = now();
	r->time = r->last_seen;
	r->state = 0;
	r->hop = 0;
	r->tag = 0;
	r->flags = reply * FLOW_MIRROR_ZONE;
	addr_copy(family, r->to.saddr.word, p->tuple.saddr.word);
	addr_copy(family, r->to.daddr.word, p->tuple.daddr.word);
	tuple_set_word(&r->to, tuple_ports(&p->tuple), p->tuple.proto, p->tuple.zone);
	return open_records(s);
}

/* Finds or makes the record of a packet that leaves the node. False: it has none. */
static __always_inline bool leaving_flow(int family, __u32 ifindex, struct scratch *s)
{
	struct device *device;
	int verdict;

	if (flow_of_packet(family, s))
		return true;
	if (!port_is_shared(s->packet.tuple.sport))
		return false;
	device = device_get(ifindex);
	verdict = own_record(s, device && device->flags & DEVICE_POD ? ZONE_POD : ZONE_OUTSIDE);
	if (verdict == VERDICT_FLOW_OPENED)
		count(HOOK_TC_EGRESS, VERDICT_FLOW_OPENED, 0);
	return verdict == VERDICT_FLOW_OPENED || verdict == VERDICT_NONE;
}

#endif
