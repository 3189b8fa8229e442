//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * tc, both ways. Ingress rewrites destinations and egress rewrites sources,
 * where netfilter's PREROUTING and POSTROUTING would, and the kernel routes in
 * between; or ingress rewrites both and transmits (express). Whatever is not
 * ours goes on to the next program (TC_ACT_UNSPEC, which TCX reads as "next").
 */

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include "announce.h"
#include "clusterip.h"
#include "own.h"
#include "return.h"
#include "rewrite.h"
#include "sent.h"

/* IEEE 802.1Q: the tag's part that names the VLAN. */
#define VLAN_ID_MASK 0xfff

/* As much of a packet as parse() can need. */
#define PULL_SIZE 96

/* include/linux/skbuff.h: the segments, SCTP's, are each of their own size. */
#define GSO_BY_FRAGS 0xffff

/*
 * Before such segments there is the common header alone. It must stay so: what
 * is pulled there is no more in the first segment, and its receiver aborts.
 */
__noinline int parse_segments(struct __sk_buff *skb, struct packet *p)
{
	struct sctp_start start;

	if (!p || p->tuple.proto != IPPROTO_SCTP ||
	    bpf_skb_load_bytes(skb, p->l4_off, &start, sizeof(start)))
		return VERDICT_UNPARSED;
	return parse_l4(&start, &start + 1, (__s32)(p->len - (p->l4_off - p->l3_off)), p);
}

static __always_inline int tc_parse(struct __sk_buff *skb, int family, enum zone zone, __u32 l3_off,
				    struct packet *p)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	int verdict = parse(family, zone, data, end, l3_off, p);
	__u32 size = PULL_SIZE;

	if (verdict == VERDICT_UNPARSED && skb->gso_size == GSO_BY_FRAGS) {
		verdict = parse_segments(skb, p);
	} else if (verdict == VERDICT_UNPARSED) {
		if (size > skb->len)
			size = skb->len;
		if (bpf_skb_pull_data(skb, size))
			return verdict;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		verdict = parse(family, zone, data, end, l3_off, p);
	}
	return verdict == VERDICT_FRAGMENT ? fragment_resolve(skb, p) : verdict;
}

/*
 * How long the packet is when it leaves, which GSO cuts into segments. 0: no
 * telling, but the sender has cut it to fit its own device.
 */
static __always_inline __u32 tc_segment_len(struct __sk_buff *skb, const struct packet *p)
{
	if (skb->gso_size == GSO_BY_FRAGS)
		return 0;
	if (skb->gso_size)
		return p->l4_off - p->l3_off + p->l4_len + skb->gso_size;
	return p->len;
}

static __always_inline int tc_too_big(struct __sk_buff *skb, struct scratch *s)
{
	/* RFC 1122, 3.2.2: said of the first fragment only */
	if (s->packet.fragment == FRAGMENT_LATER) {
		s->action = TC_ACT_SHOT;
		return VERDICT_TOO_BIG;
	}
	if (answer_too_big(skb, s, s->hop.mtu))
		return VERDICT_DROP_ERROR;
	s->action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_TOO_BIG;
}

/*
 * Both addresses, then out, past the stack. With no next hop at hand, and now
 * and then with one, the kernel does the rest: it resolves the neighbour, or
 * hears that it is in use.
 */
static __always_inline int tc_transmit(struct __sk_buff *skb, int family, struct scratch *s,
				       bool opened, enum hook hook)
{
	const struct packet *p = &s->packet;
	struct record *r = &s->record;
	struct hop *hop = &s->hop;
	__u32 what = REWRITE_ALL;

	if (!nexthop_get(r, hop) &&
	    !nexthop_ask(skb, family, skb->ifindex, skb->mark, &p->tuple, s))
		return VERDICT_DROP_NO_ROUTE;
	if (p->ttl <= 1)
		return VERDICT_DROP_TTL;
	if (too_big(hop, tc_segment_len(skb, p)))
		return tc_too_big(skb, s);
	/* what came with no link layer has no room for one */
	if (p->l3_off && hop->flags & HOP_TC && !neighbour_due(r, p))
		what |= REWRITE_MACS;
	if (!opened)
		flow_track(s, hook);
	if (tc_rewrite(skb, s, what))
		return VERDICT_DROP_ERROR;
	sent_by_us(skb);
	if (what & REWRITE_MACS)
		s->action = bpf_redirect(hop->ifindex, 0);
	else if (link_layer_add(skb, p->l3_off))
		return VERDICT_DROP_ERROR;
	else
		s->action = redirect_hop(r, s);
	return VERDICT_EXPRESS;
}

/*
 * Back to the pod that sent it, with the MACs the other way round. It passes
 * neither a bridge, which sends nothing back, nor the rules of a CNI.
 */
static __always_inline int tc_turn(struct __sk_buff *skb, struct scratch *s, bool opened,
				   enum hook hook)
{
	if (s->packet.ttl <= 1)
		return VERDICT_DROP_TTL;
	if (!opened)
		flow_track(s, hook);
	if (tc_rewrite(skb, s, REWRITE_ALL) || swap_macs(skb, s->packet.l3_off))
		return VERDICT_DROP_ERROR;
	sent_by_us(skb);
	s->action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_EXPRESS;
}

static __always_inline int tc_refuse(struct __sk_buff *skb, struct scratch *s)
{
	if (refuse(skb, s))
		return VERDICT_DROP_ERROR;
	s->action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_REFUSED;
}

/* Whether an ICMP error may be sent on by us; s->hop is where then, but for a turn. Returns a verdict if not. */
static __always_inline int icmp_express(struct __sk_buff *skb, int family, struct scratch *s)
{
	const struct packet *p = &s->packet;

	if (!(s->record.flags & FLOW_TURN) && !nexthop_get(&s->record, &s->hop) &&
	    !nexthop_ask(skb, family, skb->ifindex, skb->mark, &s->other.key, s))
		return VERDICT_DROP_NO_ROUTE;
	if (p->ttl <= 1)
		return VERDICT_DROP_TTL;
	if (set_ttl(skb, family, p->l3_off, p->ttl, p->ttl - 1))
		return VERDICT_DROP_ERROR;
	return VERDICT_NONE;
}

/*
 * An ICMP error on the way that the answers of the flow it is about take.
 * VERDICT_NONE: that is another translator's, so it is left alone, even where it
 * is for a cluster IP.
 */
__noinline int tc_icmp(struct __sk_buff *skb, struct scratch *s)
{
	bool leaving, express;
	int family, verdict;

	if (!s)
		return VERDICT_DROP_ERROR;
	family = packet_family(&s->packet);
	leaving = s->packet.tuple.zone == ZONE_LEAVING;
	if (!icmp_read(skb, s))
		return VERDICT_NOT_OURS;
	note(TRACE_ICMP);
	if (!icmp_flow(s))
		return VERDICT_NOT_OURS;
	if (s->record.flags & FLOW_FOREIGN)
		return VERDICT_NONE;
	express = !leaving && s->record.flags & FLOW_EXPRESS;
	if (express) {
		verdict = icmp_express(skb, family, s);
		if (verdict != VERDICT_NONE)
			return verdict;
	}
	if (icmp_rewrite(skb, s, express || leaving, !leaving))
		return VERDICT_DROP_ERROR;
	if (!express)
		return VERDICT_ICMP_ERROR;
	if (s->record.flags & FLOW_TURN) {
		if (swap_macs(skb, s->packet.l3_off))
			return VERDICT_DROP_ERROR;
		s->action = bpf_redirect(skb->ifindex, 0);
	} else {
		if (link_layer_add(skb, s->packet.l3_off))
			return VERDICT_DROP_ERROR;
		s->action = redirect_hop(&s->record, s);
	}
	return VERDICT_ICMP_ERROR;
}

/* What parse() does not take: ICMP errors may be about one of our flows. */
static __always_inline int tc_other(struct __sk_buff *skb, int family, int verdict,
				    struct scratch *s)
{
	if (verdict != VERDICT_NOT_OURS || !is_icmp(family, s->packet.tuple.proto))
		return verdict;
	return tc_icmp(skb, s);
}

/*
 * Answers a frame that asks for the MAC of an announced address, as xdp_who_has() does. VERDICT_NONE: it asks for
 * none, and is as it was.
 */
__noinline int tc_who_has(struct __sk_buff *skb, int family)
{
	struct scratch *s = scratch();
	__u32 size, len = skb->len;
	struct who_has *w;

	if (!s)
		return VERDICT_NONE;
	w = &s->who_has;
	s->ifindex = skb->ifindex;
	if (skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK)
		return VERDICT_NONE;
	if (family == AF_INET) {
		if (bpf_skb_load_bytes(skb, 0, &w->eth, ETH_HLEN + sizeof(w->arp)) ||
		    !arp_answer(s))
			return VERDICT_NONE;
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &w->arp, sizeof(w->arp),
					BPF_F_RECOMPUTE_CSUM))
			return VERDICT_DROP_ERROR;
	} else {
		__builtin_memset(w, 0, sizeof(*w));
		if (bpf_skb_load_bytes(skb, 0, &w->eth, ETH_HLEN + sizeof(w->ip)))
			return VERDICT_NONE;
		size = nd_frame_size(&w->ip);
		if (!size || bpf_skb_load_bytes(skb, 0, &w->eth, size) || !nd_answer(s))
			return VERDICT_NONE;
		if (bpf_skb_change_tail(skb, ND_ANSWER, 0) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN, &w->ip, ND_ANSWER - ETH_HLEN,
					BPF_F_RECOMPUTE_CSUM))
			return VERDICT_DROP_ERROR;
	}
	if (bpf_skb_store_bytes(skb, 0, &w->eth, ETH_HLEN, 0) ||
	    (skb->vlan_present && bpf_skb_vlan_pop(skb)))
		return VERDICT_DROP_ERROR;
	answer_done(s, family, len);
	sent_by_us(skb);
	s->action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_ANNOUNCED;
}

/* What parse() does not take, and so is of no flow and for no frontend. */
static __always_inline int tc_not_parsed(struct __sk_buff *skb, int family, __u32 l3_off,
					 enum hook hook, int verdict, struct scratch *s)
{
	int answer;

	s->record.service = 0;
	if (hook == HOOK_TC_INGRESS && l3_off && may_solicit(family, verdict, &s->packet)) {
		answer = tc_who_has(skb, AF_INET6);
		if (answer != VERDICT_NONE)
			return answer;
	}
	verdict = tc_other(skb, family, verdict, s);
	if (verdict == VERDICT_NOT_OURS)
		return tc_cluster(skb, family, s);
	return verdict == VERDICT_NONE ? VERDICT_NOT_OURS : verdict;
}

static __always_inline int tc_ingress_verdict(struct __sk_buff *skb, int family, __u32 l3_off,
					      enum hook hook, struct scratch *s)
{
	enum zone zone = hook == HOOK_TC_POD ? ZONE_POD : ZONE_OUTSIDE;
	bool opened;
	int verdict;

	verdict = tc_parse(skb, family, zone, l3_off, &s->packet);
	if (verdict != VERDICT_NONE)
		return tc_not_parsed(skb, family, l3_off, hook, verdict, s);
	verdict = ingress_flow(skb, family, skb->ifindex, skb->mark, hook, s);
	if (verdict == VERDICT_NOT_OURS)
		return tc_cluster(skb, family, s);
	if (verdict == VERDICT_REFUSED)
		return tc_refuse(skb, s);
	opened = verdict == VERDICT_FLOW_OPENED;
	if (verdict != VERDICT_NONE && !opened)
		return verdict;
	if (s->packet.fragment == FRAGMENT_FIRST)
		fragment_note(&s->packet);
	if (s->record.flags & FLOW_TURN)
		return tc_turn(skb, s, opened, hook);
	if (s->record.flags & FLOW_EXPRESS)
		return tc_transmit(skb, family, s, opened, hook);
	if (!opened)
		flow_track(s, hook);
	if (s->record.flags & FLOW_FOREIGN)
		return VERDICT_NOT_OURS;
	return tc_rewrite(skb, s, REWRITE_DEST) ? VERDICT_DROP_ERROR : VERDICT_STACK;
}

static __always_inline int tc_egress_verdict(struct __sk_buff *skb, int family, __u32 l3_off,
					     struct scratch *s)
{
	int verdict;

	verdict = tc_parse(skb, family, ZONE_LEAVING, l3_off, &s->packet);
	if (verdict != VERDICT_NONE) {
		s->record.service = 0;
		verdict = tc_other(skb, family, verdict, s);
		return verdict == VERDICT_NONE ? VERDICT_NOT_OURS : verdict;
	}
	if (!leaving_flow(family, skb->ifindex, s))
		return VERDICT_NOT_OURS;
	if (s->packet.fragment == FRAGMENT_FIRST)
		fragment_note(&s->packet);
	flow_track(s, HOOK_TC_EGRESS);
	if (tc_rewrite(skb, s, REWRITE_SOURCE))
		return VERDICT_DROP_ERROR;
	if (reply_astray(skb, s)) {
		if (link_layer_add(skb, l3_off))
			return VERDICT_DROP_ERROR;
		sent_by_us(skb);
		s->action = redirect_fib(reply_device(&s->record), s);
	}
	return VERDICT_SOURCE;
}

/* Keeps the packet as it comes, for watchers who want to see it. */
__noinline int watch_tc_before(struct __sk_buff *skb)
{
	struct event_buffer *b = event_buffer();
	__u32 len = snapped(skb->len);

	if (!b)
		return 0;
	b->saved = len && !bpf_skb_load_bytes(skb, 0, b->bytes, len) ? len : 0;
	return 0;
}

/* Reports the packet at hand. */
__noinline int watch_tc(struct __sk_buff *skb, struct scratch *s, int hook, int verdict)
{
	struct event_buffer *b = event_buffer();
	__u32 before, len = snapped(skb->len);

	if (!s || !b)
		return 0;
	before = saved_take(b);
	event_begin(&b->event, s, hook, verdict);
	if (before) {
		b->event.before = before;
		if (is_changed(verdict) && len &&
		    !bpf_skb_load_bytes(skb, 0, b->bytes + before, len))
			b->event.after = len;
	}
	return watch_offer(&b->event);
}

/* Counts the packet for its flow, or why it came to nothing for its service. `len`: from the IP header on. */
static __always_inline void tc_count_flow(int family, int verdict, __u32 len, struct scratch *s)
{
	if (s->packet.len != LENGTH_UNKNOWN)
		len = s->packet.len;
	count_flow(family, verdict >= VERDICT_EXPRESS && verdict <= VERDICT_SOURCE, len, s);
	if (verdict == VERDICT_REFUSED || is_drop(verdict))
		stats_failed(s->record.service, verdict);
}

static __always_inline int tc_family(struct __sk_buff *skb, int family, __u32 l3_off,
				     enum hook hook)
{
	struct scratch *s = scratch();
	__u32 len = skb->len;
	int verdict;

	if (!s)
		return TC_ACT_UNSPEC;
	s->action = TC_ACT_UNSPEC;
	s->ifindex = skb->ifindex;
	if (watch_word() & WATCHING_BYTES)
		watch_tc_before(skb);
	if (hook == HOOK_TC_EGRESS)
		verdict = tc_egress_verdict(skb, family, l3_off, s);
	else
		verdict = tc_ingress_verdict(skb, family, l3_off, hook, s);
	count(hook, verdict, len);
	tc_count_flow(family, verdict, len - l3_off, s);
	if (is_watched(verdict))
		watch_tc(skb, s, hook, verdict);
	return is_drop(verdict) ? TC_ACT_SHOT : (int)s->action;
}

/*
 * Frames that are none of this hook's business: those sent to many, whose IP
 * packet the stack drops if it is for one host; those that a switch has flooded,
 * but not what a pod sends through its bridge; and tagged ones, whose tag is no more in the data here. They are the
 * VLAN device's, whose own hook will see them. But VLAN 0 is none: the tag
 * holds a priority only (IEEE 802.1Q, 6.9), and the stack ignores it, too.
 */
static __always_inline int frame_verdict(struct __sk_buff *skb, __u32 l3_off, enum hook hook)
{
	__u32 type = skb->pkt_type;

	if (l3_off && (type == PACKET_BROADCAST || type == PACKET_MULTICAST))
		return VERDICT_NOT_OURS;
	if (l3_off && hook == HOOK_TC_INGRESS && type == PACKET_OTHERHOST)
		return VERDICT_NOT_OURS;
	if (!skb->vlan_present)
		return VERDICT_NONE;
	if (skb->vlan_tci & VLAN_ID_MASK || bpf_skb_vlan_pop(skb))
		return VERDICT_VLAN;
	return VERDICT_NONE;
}

/*
 * The explain twin is run on packets that begin with the IP header, where
 * BPF_PROG_TEST_RUN takes an EtherType from the source address.
 */
static __always_inline __be16 tc_protocol(struct __sk_buff *skb)
{
	__u8 version;

	if (!explain || bpf_skb_load_bytes(skb, 0, &version, sizeof(version)))
		return skb->protocol;
	return bpf_htons(version >> 4 == 4 ? ETH_P_IP : ETH_P_IPV6);
}

/* An ARP frame, or one with an IPv6 packet to many. If this node does not answer it, `otherwise` is its verdict. */
__noinline int tc_neighbour(struct __sk_buff *skb, int family, int otherwise)
{
	struct scratch *s = scratch();
	__u32 len = skb->len;
	int verdict;

	if (!s)
		return TC_ACT_UNSPEC;
	s->action = TC_ACT_UNSPEC;
	if (watch_word() & WATCHING_BYTES)
		watch_tc_before(skb);
	verdict = tc_who_has(skb, family);
	if (verdict == VERDICT_NONE) {
		count(HOOK_TC_INGRESS, otherwise, len);
		return TC_ACT_UNSPEC;
	}
	count(HOOK_TC_INGRESS, verdict, len);
	if (is_watched(verdict))
		watch_tc(skb, s, HOOK_TC_INGRESS, verdict);
	return is_drop(verdict) ? TC_ACT_SHOT : (int)s->action;
}

/* What no record and no service is for. */
static __always_inline int tc_not_flow(struct __sk_buff *skb, __be16 protocol, __u32 l3_off,
				       enum hook hook, int verdict)
{
	if (hook == HOOK_TC_INGRESS && l3_off && verdict != VERDICT_VLAN) {
		if (protocol == bpf_htons(ETH_P_ARP))
			return tc_neighbour(skb, AF_INET, verdict);
		if (protocol == bpf_htons(ETH_P_IPV6))
			return tc_neighbour(skb, AF_INET6, verdict);
	}
	count(hook, verdict, skb->len);
	return TC_ACT_UNSPEC;
}

static __always_inline int tc(struct __sk_buff *skb, __u32 l3_off, enum hook hook)
{
	__be16 protocol = l3_off ? skb->protocol : tc_protocol(skb);
	int verdict;

	if (hook == HOOK_TC_EGRESS && was_sent_by_us(skb)) {
		count(hook, VERDICT_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	verdict = frame_verdict(skb, l3_off, hook);
	if (verdict != VERDICT_NONE)
		return tc_not_flow(skb, protocol, l3_off, hook, verdict);
	if (protocol == bpf_htons(ETH_P_IP))
		return tc_family(skb, AF_INET, l3_off, hook);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return tc_family(skb, AF_INET6, l3_off, hook);
	return tc_not_flow(skb, protocol, l3_off, hook, VERDICT_NOT_IP);
}

SEC("tc")
int waggle_ingress(struct __sk_buff *skb)
{
	return tc(skb, ETH_HLEN, HOOK_TC_INGRESS);
}

SEC("tc")
int waggle_egress(struct __sk_buff *skb)
{
	return tc(skb, ETH_HLEN, HOOK_TC_EGRESS);
}

/* The host's side of a pod's device: its clients are inside the cluster. */
SEC("tc")
int waggle_pod(struct __sk_buff *skb)
{
	return tc(skb, ETH_HLEN, HOOK_TC_POD);
}

/* Devices with no link layer: tun, wireguard, ipip. */
SEC("tc")
int waggle_ingress_l3(struct __sk_buff *skb)
{
	return tc(skb, 0, HOOK_TC_INGRESS);
}

SEC("tc")
int waggle_egress_l3(struct __sk_buff *skb)
{
	return tc(skb, 0, HOOK_TC_EGRESS);
}
