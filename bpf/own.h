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
 * netfilter would do. A flow that comes later finds that the tuple has an owner.
 */

static __always_inline bool port_is_shared(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return is_nodeport(port) || (host >= snat_min && host <= snat_max);
}

/*
 * Whether a packet that leaves is of such a connection: VERDICT_NONE, and its
 * record is begun. `reply` is where its answers come in.
 */
__noinline int choose_own(struct scratch *s, enum zone reply)
{
	const struct packet *p;
	struct entry *other;
	int family;

	if (!s)
		return VERDICT_NOT_OURS;
	p = &s->packet;
	other = &s->other;
	family = packet_family(p);
	if (!begins_here(p) || !node_has_addr(family, p->tuple.saddr.word))
		return VERDICT_NOT_OURS;
	/*
	 * Another translator's; or the answer of a service, which has passed the egress
	 * of a bridge before that of its port.
	 */
	tuple_reverse(family, &p->tuple, reply, &other->key);
	if (flow_lookup(family, &other->key, &other->record) &&
	    (other->record.flags & (FLOW_REPLY | FLOW_FOREIGN)) != FLOW_REPLY)
		return VERDICT_NOT_OURS;
	choose_untranslated(family, s, reply);
	return VERDICT_NONE;
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
	if (choose_own(s, device && device->flags & DEVICE_POD ? ZONE_POD : ZONE_OUTSIDE) !=
	    VERDICT_NONE)
		return false;
	verdict = open_untranslated(s);
	if (verdict == VERDICT_FLOW_OPENED)
		flow_event(s, HOOK_TC_EGRESS, VERDICT_FLOW_OPENED);
	return verdict == VERDICT_FLOW_OPENED || verdict == VERDICT_NONE;
}

#endif
