/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CLUSTERIP_H
#define WAGGLE_CLUSTERIP_H

#include "cluster.h"
#include "config.h"
#include "refuse.h"

/*
 * What a cluster IP answers where no frontend does (tc only): a refusal, or to
 * a ping, if so configured, a reply.
 */

/* RFC 792; RFC 4443, 4.1 and 4.2 */
#define ICMP_ECHOREPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

#define ANSWER_TTL 64

/*
 * RFC 1122, 3.2.2 and RFC 4443, 2.4 (e): no answer to what comes from no single
 * host, or is not a packet's first fragment. What was sent to many in one frame
 * does not come here.
 */
static __always_inline bool answerable(int family, const struct packet *p)
{
	return p->fragment != FRAGMENT_LATER && addr_is_sender(family, p->tuple.saddr.word);
}

/* Turns an echo request into its reply; the sum does not see who sends to whom. */
static __always_inline long answer_echo(struct __sk_buff *skb, int family, __u32 l3_off,
					const struct packet *p, __u8 request)
{
	__u8 reply = family == AF_INET ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;

	if (bpf_l4_csum_replace(skb, p->l4_off + offsetof(struct icmp_header, checksum),
				bpf_htons(request << 8), bpf_htons(reply << 8), 2) ||
	    bpf_skb_store_bytes(skb, p->l4_off, &reply, sizeof(reply), 0))
		return -1;
	if (swap_addresses(skb, family, l3_off, &p->tuple) ||
	    set_ttl(skb, family, l3_off, p->ttl, ANSWER_TTL))
		return -1;
	return swap_macs(skb, l3_off);
}

/* Turns a packet into the answer to it, or says why not. */
__noinline int cluster_answer(struct __sk_buff *skb, struct scratch *s)
{
	const struct packet *p;
	__u8 head[QUOTED_L4];
	__u8 icmp, echo;
	int family;

	if (!s)
		return VERDICT_DROP_ERROR;
	p = &s->packet;
	family = packet_family(p);
	icmp = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	echo = family == AF_INET ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
	if (!answerable(family, p) || p->tcp_flags & TCP_RST)
		return VERDICT_DROP_NO_FLOW;
	if (p->len < p->l4_off - p->l3_off + QUOTED_L4 ||
	    bpf_skb_load_bytes(skb, p->l4_off, head, sizeof(head)))
		return VERDICT_DROP_ERROR;
	if (p->tuple.proto == icmp) {
		if (head[0] != echo) /* RFC 1122, 3.2.2: no error about an error */
			return VERDICT_DROP_NO_FLOW;
		if (answer_ping)
			return answer_echo(skb, family, p->l3_off, p, echo) ? VERDICT_DROP_ERROR
									    : VERDICT_ANSWERED;
	}
	return refuse(skb, s) ? VERDICT_DROP_ERROR : VERDICT_REFUSED;
}

/* The verdict on a packet of no flow and to no frontend. */
static __always_inline int tc_cluster(struct __sk_buff *skb, int family, struct scratch *s)
{
	int verdict = cluster_verdict(family, s->packet.tuple.daddr.word);

	if (verdict == VERDICT_NOT_OURS)
		return verdict;
	s->record.service = 0;
	s->record.backend = 0;
	if (verdict != VERDICT_REFUSED)
		return verdict;
	verdict = cluster_answer(skb, s);
	if (verdict == VERDICT_REFUSED || verdict == VERDICT_ANSWERED)
		s->action = bpf_redirect(skb->ifindex, 0);
	return verdict;
}

#endif
