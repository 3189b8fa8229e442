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
#include "clusterip.h"
#include "rewrite.h"
#include "sent.h"
#include "track.h"

/* As much of a packet as parse() can need. */
#define PULL_SIZE 96

/* include/linux/skbuff.h: the segments, SCTP's, are each of their own size. */
#define GSO_BY_FRAGS 0xffff

/*
 * Before such segments there is the common header alone. It must stay so: what
 * is pulled there is no more in the first segment, and its receiver aborts.
 */
__noinline int parse_segments(struct __sk_buff *skb, __u32 l3_off, struct packet *p)
{
	struct sctp_start start;

	if (!p || p->tuple.proto != IPPROTO_SCTP ||
	    bpf_skb_load_bytes(skb, p->l4_off, &start, sizeof(start)))
		return VERDICT_UNPARSED;
	return parse_l4(&start, &start + 1, (__s32)(p->len - (p->l4_off - l3_off)), p);
}

static __always_inline int tc_parse(struct __sk_buff *skb, int family, __u32 l3_off, bool egress,
				    struct packet *p)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	int verdict = parse(family, data, end, l3_off, p);
	__u32 size = PULL_SIZE;

	if (verdict == VERDICT_UNPARSED && skb->gso_size == GSO_BY_FRAGS) {
		verdict = parse_segments(skb, l3_off, p);
	} else if (verdict == VERDICT_UNPARSED) {
		if (size > skb->len)
			size = skb->len;
		if (bpf_skb_pull_data(skb, size))
			return verdict;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		verdict = parse(family, data, end, l3_off, p);
	}
	p->tuple.egress = egress;
	if (verdict != VERDICT_FRAGMENT)
		return verdict;
	return family == AF_INET ? fragment_resolve4(skb, l3_off, p)
				 : fragment_resolve6(skb, l3_off, p);
}

/*
 * How long the packet is when it leaves, which GSO cuts into segments. 0: no
 * telling, but the sender has cut it to fit its own device.
 */
static __always_inline __u32 tc_segment_len(struct __sk_buff *skb, __u32 l3_off,
					    const struct packet *p)
{
	if (skb->gso_size == GSO_BY_FRAGS)
		return 0;
	if (skb->gso_size)
		return p->l4_off - l3_off + p->l4_len + skb->gso_size;
	return p->len;
}

static __always_inline int tc_too_big(struct __sk_buff *skb, int family, __u32 l3_off,
				      const struct packet *p, __u32 mtu, int *action)
{
	int ret;

	/* RFC 1122, 3.2.2: said of the first fragment only */
	if (p->fragment == FRAGMENT_LATER) {
		*action = TC_ACT_SHOT;
		return VERDICT_TOO_BIG;
	}
	ret = family == AF_INET ? answer_too_big4(skb, l3_off, p, mtu)
				: answer_too_big6(skb, l3_off, p, mtu);
	if (ret)
		return VERDICT_DROP_ERROR;
	*action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_TOO_BIG;
}

/*
 * Both addresses, then out, past the stack. With no next hop at hand, and now
 * and then with one, the kernel does the rest: it resolves the neighbour, or
 * hears that it is in use.
 */
static __always_inline int tc_transmit(struct __sk_buff *skb, int family, __u32 l3_off,
				       const struct packet *p, const struct found *found,
				       const struct tuple *to, enum hook hook, int *action)
{
	struct flow *f = found->flow;
	__u32 what = REWRITE_ALL;
	__u32 ifindex;

	if (f->hop.epoch != current_epoch() &&
	    !nexthop_refresh(skb, family, skb->ifindex, f, &p->tuple, to))
		return VERDICT_DROP_NO_ROUTE;
	if (p->ttl <= 1)
		return VERDICT_DROP_TTL;
	if (too_big(f, tc_segment_len(skb, l3_off, p)))
		return tc_too_big(skb, family, l3_off, p, f->mtu, action);
	/* what came with no link layer has no room for one */
	if (l3_off && f->hop.epoch && f->flags & FLOW_DIRECT && !neighbour_due(f, p) &&
	    head_set_macs(family, &f->hop))
		what |= REWRITE_MACS;
	ifindex = f->hop.ifindex;
	if (!found->opened)
		flow_track(family, found->confirmed, f, p, hook);
	if (tc_rewrite(skb, family, l3_off, p, to, what))
		return VERDICT_DROP_ERROR;
	sent_by_us(skb);
	if (what & REWRITE_MACS)
		*action = bpf_redirect(ifindex, 0);
	else
		*action = bpf_redirect_neigh(ifindex, NULL, 0, 0);
	return VERDICT_EXPRESS;
}

static __always_inline int tc_refuse(struct __sk_buff *skb, int family, __u32 l3_off,
				     const struct packet *p, int *action)
{
	if (refuse(skb, family, l3_off, p))
		return VERDICT_DROP_ERROR;
	*action = bpf_redirect(skb->ifindex, 0);
	return VERDICT_REFUSED;
}

/*
 * An ICMP error on the way that the answers of the flow it is about take.
 * VERDICT_COUNT: that is another translator's, so it is left alone, even where it is
 * for a cluster IP.
 */
static __always_inline int tc_icmp(struct __sk_buff *skb, int family, __u32 l3_off,
				   const struct packet *p, int *action)
{
	bool egress = p->tuple.egress, express;
	struct scratch *s = scratch();
	struct icmp_error *e;
	__u32 ifindex = 0;
	struct flow *f;

	if (!s)
		return VERDICT_DROP_ERROR;
	if (!(family == AF_INET ? icmp_read4(skb, l3_off, p) : icmp_read6(skb, l3_off, p)))
		return VERDICT_NOT_OURS;
	e = &s->icmp;
	f = icmp_flow(family, e);
	if (!f)
		return VERDICT_NOT_OURS;
	if (f->flags & FLOW_FOREIGN)
		return VERDICT_COUNT;
	flow_rewrite(family, f, &e->answer, &e->to);
	express = !egress && f->flags & FLOW_EXPRESS;
	if (express) {
		if (f->hop.epoch != current_epoch() &&
		    !nexthop_refresh(skb, family, skb->ifindex, f, &e->answer, &e->to))
			return VERDICT_DROP_NO_ROUTE;
		if (p->ttl <= 1)
			return VERDICT_DROP_TTL;
		ifindex = f->hop.ifindex;
		if (set_ttl(skb, family, l3_off, p->ttl, p->ttl - 1))
			return VERDICT_DROP_ERROR;
	}
	if (family == AF_INET ? icmp_rewrite4(skb, l3_off, p, express || egress, !egress)
			      : icmp_rewrite6(skb, l3_off, p, express || egress, !egress))
		return VERDICT_DROP_ERROR;
	if (express)
		*action = bpf_redirect_neigh(ifindex, NULL, 0, 0);
	return VERDICT_ICMP_ERROR;
}

__noinline int tc_icmp4(struct __sk_buff *skb, __u32 l3_off, const struct packet *p, int *action)
{
	return p && action ? tc_icmp(skb, AF_INET, l3_off, p, action) : VERDICT_DROP_ERROR;
}

__noinline int tc_icmp6(struct __sk_buff *skb, __u32 l3_off, const struct packet *p, int *action)
{
	return p && action ? tc_icmp(skb, AF_INET6, l3_off, p, action) : VERDICT_DROP_ERROR;
}

/* What parse() does not take: ICMP errors may be about one of our flows. */
static __always_inline int tc_other(struct __sk_buff *skb, int family, __u32 l3_off, int verdict,
				    const struct packet *p, int *action)
{
	if (verdict != VERDICT_NOT_OURS || !is_icmp(family, p->tuple.proto))
		return verdict;
	return family == AF_INET ? tc_icmp4(skb, l3_off, p, action)
				 : tc_icmp6(skb, l3_off, p, action);
}

static __always_inline void tc_note_fragment(int family, const struct packet *p)
{
	if (p->fragment != FRAGMENT_FIRST)
		return;
	if (family == AF_INET)
		fragment_note4(p);
	else
		fragment_note6(p);
}

static __always_inline int tc_ingress_verdict(struct __sk_buff *skb, int family, __u32 l3_off,
					      enum hook hook, int *action)
{
	struct packet p = {};
	struct found found = {};
	struct tuple to;
	bool foreign;
	int verdict;

	verdict = tc_parse(skb, family, l3_off, false, &p);
	if (verdict == VERDICT_COUNT)
		verdict = ingress_flow(skb, family, skb->ifindex, &p, hook, &found);
	else
		verdict = tc_other(skb, family, l3_off, verdict, &p, action);
	if (verdict == VERDICT_NOT_OURS)
		return tc_cluster(skb, family, l3_off, &p, action);
	if (verdict == VERDICT_REFUSED)
		return tc_refuse(skb, family, l3_off, &p, action);
	if (!found.flow)
		return verdict == VERDICT_COUNT ? VERDICT_NOT_OURS : verdict;
	tc_note_fragment(family, &p);
	flow_rewrite(family, found.flow, &p.tuple, &to);
	if (found.flow->flags & FLOW_EXPRESS)
		return tc_transmit(skb, family, l3_off, &p, &found, &to, hook, action);
	foreign = found.flow->flags & FLOW_FOREIGN;
	if (!found.opened)
		flow_track(family, found.confirmed, found.flow, &p, hook);
	if (foreign)
		return VERDICT_NOT_OURS;
	if (tc_rewrite(skb, family, l3_off, &p, &to, REWRITE_DEST))
		return VERDICT_DROP_ERROR;
	return VERDICT_STACK;
}

static __always_inline int tc_egress_verdict(struct __sk_buff *skb, int family, __u32 l3_off)
{
	int verdict, action = TC_ACT_UNSPEC; /* nothing is sent elsewhere from here */
	struct packet p = {};
	bool confirmed = true;
	struct tuple to;
	struct flow *f;

	verdict = tc_parse(skb, family, l3_off, true, &p);
	if (verdict != VERDICT_COUNT) {
		verdict = tc_other(skb, family, l3_off, verdict, &p, &action);
		return verdict == VERDICT_COUNT ? VERDICT_NOT_OURS : verdict;
	}
	f = flow_find(family, true, &p);
	if (!f) {
		confirmed = false;
		f = flow_find(family, false, &p);
	}
	if (!f)
		return VERDICT_NOT_OURS;
	tc_note_fragment(family, &p);
	flow_rewrite(family, f, &p.tuple, &to);
	flow_track(family, confirmed, f, &p, HOOK_TC_EGRESS);
	if (tc_rewrite(skb, family, l3_off, &p, &to, REWRITE_SOURCE))
		return VERDICT_DROP_ERROR;
	return VERDICT_SOURCE;
}

static __always_inline int tc_family(struct __sk_buff *skb, int family, __u32 l3_off,
				     enum hook hook)
{
	int action = TC_ACT_UNSPEC;
	__u32 len = skb->len;
	int verdict;

	if (hook == HOOK_TC_EGRESS)
		verdict = tc_egress_verdict(skb, family, l3_off);
	else
		verdict = tc_ingress_verdict(skb, family, l3_off, hook, &action);
	count(hook, verdict, len);
	return is_drop(verdict) ? TC_ACT_SHOT : action;
}

/*
 * A tagged frame is seen here with its tag taken out of the data; it is the
 * VLAN device's packet, whose own hook will see it.
 */
static __always_inline int tc(struct __sk_buff *skb, __u32 l3_off, enum hook hook)
{
	if (hook == HOOK_TC_EGRESS && was_sent_by_us(skb)) {
		count(hook, VERDICT_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	if (skb->vlan_present) {
		count(hook, VERDICT_VLAN, skb->len);
		return TC_ACT_UNSPEC;
	}
	/* flooded by a switch: the node that it is meant for will do the work */
	if (l3_off && hook == HOOK_TC_INGRESS && skb->pkt_type == PACKET_OTHERHOST) {
		count(hook, VERDICT_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return tc_family(skb, AF_INET, l3_off, hook);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return tc_family(skb, AF_INET6, l3_off, hook);
	count(hook, VERDICT_NOT_IP, skb->len);
	return TC_ACT_UNSPEC;
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
