//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * XDP on external devices: the express path. What it cannot do it leaves,
 * untouched, to tc ingress on the same device: flows to local backends (only
 * tc sees offloaded packets rightly), neighbours that need resolving or asking
 * after, and refusals. A new flow is recorded here in any case: were it left
 * to tc to choose again, remote backends would get more than their share.
 */

#include "announce.h"
#include "checksum.h"
#include "crc32c.h"
#include "track.h"

struct xdp_headers {
	struct ethhdr *eth;
	void *ip;
	struct ports *ports;
	void *end;
};

static __always_inline bool xdp_headers(struct xdp_md *ctx, int family, const struct packet *p,
					struct xdp_headers *h)
{
	void *data = (void *)(long)ctx->data;
	__u32 off = p->l4_off;

	h->end = (void *)(long)ctx->data_end;
	h->eth = data;
	h->ip = data + ETH_HLEN;
	if (family == AF_INET6)
		off = ETH_HLEN + sizeof(struct ipv6hdr);
	else if (off > ETH_HLEN + IP_MAX_HEADER)
		return false;
	h->ports = data + off;
	if (h->ip + (family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) > h->end)
		return false;
	return (void *)(h->ports + 1) <= h->end;
}

static __always_inline bool xdp_fix_sctp(const struct xdp_headers *h, const struct packet *p,
					 const struct tuple *to)
{
	struct sctp_start *sctp = (void *)h->ports;
	__u32 len = p->len - ((void *)sctp - h->ip);

	if ((void *)(sctp + 1) > h->end)
		return false;
	sctp->checksum = sctp_checksum(sctp->checksum, p, to, len);
	return true;
}

/* The checksum's own place in the transport header. */
static __always_inline bool xdp_fix_l4(const struct xdp_headers *h, __u8 proto, __u64 diff)
{
	struct tcphdr *tcp = (void *)h->ports;
	struct udphdr *udp = (void *)h->ports;
	__u16 check;

	if (proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > h->end)
			return false;
		tcp->check = csum_apply(tcp->check, diff);
		return true;
	}
	if ((void *)(udp + 1) > h->end)
		return false;
	if (!udp->check) /* RFC 768: the sender made none */
		return true;
	check = csum_apply(udp->check, diff);
	udp->check = check ? check : 0xffff;
	return true;
}

static __always_inline void xdp_fix_ip(const struct xdp_headers *h, int family,
				       const struct tuple *to, __u64 addr_diff)
{
	if (family == AF_INET) {
		struct iphdr *ip = h->ip;

		/* the TTL is the high byte of its word; RFC 1141 */
		addr_diff += csum_u16_diff(bpf_htons(0x0100), 0);
		ip->check = csum_apply(ip->check, addr_diff);
		ip->ttl--;
		ip->saddr = to->saddr.word[0];
		ip->daddr = to->daddr.word[0];
	} else {
		struct ipv6hdr *ip = h->ip;

		ip->hop_limit--;
		addr_copy(family, ip->saddr.in6_u.u6_addr32, to->saddr.word);
		addr_copy(family, ip->daddr.in6_u.u6_addr32, to->daddr.word);
	}
}

/* Applies a record in full, MACs included. */
static __always_inline bool xdp_rewrite(struct xdp_md *ctx, int family, const struct packet *p,
					const struct tuple *to, const struct hop *hop)
{
	struct xdp_headers h;
	__u64 diff;

	if (!xdp_headers(ctx, family, p, &h))
		return false;
	diff = csum_addr_diff(family, p->tuple.saddr.word, to->saddr.word) +
	       csum_addr_diff(family, p->tuple.daddr.word, to->daddr.word);
	if (p->tuple.proto == IPPROTO_SCTP) {
		if (!xdp_fix_sctp(&h, p, to))
			return false;
	} else if (!xdp_fix_l4(&h, p->tuple.proto,
			       diff + csum_u16_diff(p->tuple.sport, to->sport) +
				       csum_u16_diff(p->tuple.dport, to->dport)))
		return false;
	xdp_fix_ip(&h, family, to, diff);
	h.ports->source = to->sport;
	h.ports->dest = to->dport;
	__builtin_memcpy(h.eth->h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(h.eth->h_source, hop->smac, ETH_ALEN);
	return true;
}

static __always_inline int xdp_transmit(struct xdp_md *ctx, int family, struct scratch *s,
					bool opened)
{
	const struct packet *p = &s->packet;
	struct record *r = &s->record;
	struct hop *hop = &s->hop;

	if (!nexthop_get(r, hop) &&
	    !nexthop_ask(ctx, family, ctx->ingress_ifindex, 0, &p->tuple, s))
		return VERDICT_LEFT_TO_TC;
	if (!(hop->flags & HOP_XDP) || neighbour_due(r, p) || too_big(hop, p->len))
		return VERDICT_LEFT_TO_TC;
	if (p->ttl <= 1)
		return VERDICT_DROP_TTL;
	if (!opened)
		flow_track(s, HOOK_XDP);
	if (!xdp_rewrite(ctx, family, p, &r->to, hop))
		return VERDICT_DROP_ERROR;
	if (hop->ifindex == ctx->ingress_ifindex) {
		s->action = XDP_TX;
		return VERDICT_EXPRESS;
	}
	s->action = XDP_REDIRECT;
	if (bpf_redirect_map(&xdp_devices, hop->ifindex, XDP_DROP) == XDP_REDIRECT)
		return VERDICT_EXPRESS;
	return VERDICT_DROP_ERROR;
}

/*
 * Answers a frame that asks for the MAC of an announced address. VERDICT_NONE: it asks for none, and is as it was.
 * Only ARP frames and ICMPv6 messages come here.
 */
__noinline int xdp_who_has(struct xdp_md *ctx, int family)
{
	struct scratch *s = scratch();
	__u32 size, answer = ND_ANSWER, len = ctx->data_end - ctx->data;
	struct who_has *w;

	if (!s)
		return VERDICT_NONE;
	w = &s->who_has;
	s->ifindex = ctx->ingress_ifindex;
	if (family == AF_INET) {
		answer = ETH_HLEN + sizeof(w->arp);
		if (bpf_xdp_load_bytes(ctx, 0, &w->eth, ETH_HLEN + sizeof(w->arp)) ||
		    !arp_answer(s))
			return VERDICT_NONE;
	} else {
		__builtin_memset(w, 0, sizeof(*w));
		if (bpf_xdp_load_bytes(ctx, 0, &w->eth, ETH_HLEN + sizeof(w->ip)))
			return VERDICT_NONE;
		size = nd_frame_size(&w->ip);
		if (!size || bpf_xdp_load_bytes(ctx, 0, &w->eth, size) || !nd_answer(s))
			return VERDICT_NONE;
		if (len != ND_ANSWER && bpf_xdp_adjust_tail(ctx, (int)(ND_ANSWER - len)))
			return VERDICT_LEFT_TO_TC;
	}
	if (bpf_xdp_store_bytes(ctx, 0, &w->eth, answer))
		return VERDICT_DROP_ERROR;
	answer_done(s, family, len);
	return VERDICT_ANNOUNCED;
}

/* What parse() does not take may be a solicitation. */
static __always_inline int xdp_other(struct xdp_md *ctx, int family, int verdict,
				     const struct scratch *s)
{
	int answer;

	if (!may_solicit(family, verdict, &s->packet))
		return verdict;
	answer = xdp_who_has(ctx, AF_INET6);
	return answer == VERDICT_NONE ? verdict : answer;
}

static __always_inline int xdp_verdict(struct xdp_md *ctx, int family, struct scratch *s)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	int verdict;

	verdict = parse(family, ZONE_OUTSIDE, data, end, ETH_HLEN, &s->packet);
	if (verdict != VERDICT_NONE)
		return xdp_other(ctx, family, verdict, s);
	verdict = ingress_flow(ctx, family, ctx->ingress_ifindex, 0, HOOK_XDP, s);
	if (verdict == VERDICT_REFUSED)
		return VERDICT_LEFT_TO_TC;
	if (verdict != VERDICT_NONE && verdict != VERDICT_FLOW_OPENED)
		return verdict;
	if (!(s->record.flags & FLOW_EXPRESS))
		return s->record.flags & FLOW_FOREIGN ? VERDICT_NOT_OURS : VERDICT_LEFT_TO_TC;
	return xdp_transmit(ctx, family, s, verdict == VERDICT_FLOW_OPENED);
}

/* Keeps the packet as it comes, for watchers who want to see it. */
__noinline int watch_xdp_before(struct xdp_md *ctx)
{
	struct event_buffer *b = event_buffer();
	__u32 len = snapped(ctx->data_end - ctx->data);

	if (!b)
		return 0;
	b->saved = len && !bpf_xdp_load_bytes(ctx, 0, b->bytes, len) ? len : 0;
	return 0;
}

/* Reports the packet at hand. */
__noinline int watch_xdp(struct xdp_md *ctx, struct scratch *s, int verdict)
{
	struct event_buffer *b = event_buffer();
	__u32 before, len = snapped(ctx->data_end - ctx->data);

	if (!s || !b)
		return 0;
	before = saved_take(b);
	event_begin(&b->event, s, HOOK_XDP, verdict);
	if (before) {
		b->event.before = before;
		if (is_changed(verdict) && len &&
		    !bpf_xdp_load_bytes(ctx, 0, b->bytes + before, len))
			b->event.after = len;
	}
	return watch_offer(&b->event);
}

static __always_inline int xdp_family(struct xdp_md *ctx, int family)
{
	struct scratch *s = scratch();
	int verdict;

	if (!s)
		return XDP_PASS;
	s->ifindex = ctx->ingress_ifindex;
	if (watch_word() & WATCHING_BYTES)
		watch_xdp_before(ctx);
	verdict = xdp_verdict(ctx, family, s);
	count(HOOK_XDP, verdict, ctx->data_end - ctx->data);
	if (is_watched(verdict))
		watch_xdp(ctx, s, verdict);
	count_flow(family, verdict == VERDICT_EXPRESS, s->packet.len, s);
	if (verdict == VERDICT_EXPRESS)
		return s->action;
	if (verdict == VERDICT_ANNOUNCED)
		return XDP_TX;
	if (!is_drop(verdict))
		return XDP_PASS;
	stats_failed(s->record.service, verdict);
	return XDP_DROP;
}

/* Customer and service tags, IEEE 802.1Q and 802.1ad. */
static __always_inline bool is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/* An ARP frame, or one with an IPv6 packet to many. If this node does not answer it, `otherwise` is its verdict. */
__noinline int xdp_neighbour(struct xdp_md *ctx, int family, int otherwise)
{
	struct scratch *s = scratch();
	int verdict;

	if (!s)
		return XDP_PASS;
	if (watch_word() & WATCHING_BYTES)
		watch_xdp_before(ctx);
	verdict = xdp_who_has(ctx, family);
	if (verdict == VERDICT_NONE) {
		count(HOOK_XDP, otherwise, ctx->data_end - ctx->data);
		return XDP_PASS;
	}
	count(HOOK_XDP, verdict, ctx->data_end - ctx->data);
	if (is_watched(verdict))
		watch_xdp(ctx, s, verdict);
	if (verdict == VERDICT_ANNOUNCED)
		return XDP_TX;
	return verdict == VERDICT_LEFT_TO_TC ? XDP_PASS : XDP_DROP;
}

/* What no record and no service is for. To many: the stack drops what is for one host, as tc says. */
static __always_inline int xdp_not_flow(struct xdp_md *ctx, __be16 ethertype, bool many)
{
	int verdict = VERDICT_NOT_IP;

	if (many)
		verdict = VERDICT_NOT_OURS;
	else if (is_vlan(ethertype))
		verdict = VERDICT_VLAN;
	if (ethertype == bpf_htons(ETH_P_ARP))
		return xdp_neighbour(ctx, AF_INET, verdict);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return xdp_neighbour(ctx, AF_INET6, verdict);
	count(HOOK_XDP, verdict, ctx->data_end - ctx->data);
	return XDP_PASS;
}

SEC("xdp")
int waggle_xdp(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_dest[0] & 1)
		return xdp_not_flow(ctx, eth->h_proto, true);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return xdp_family(ctx, AF_INET);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return xdp_family(ctx, AF_INET6);
	return xdp_not_flow(ctx, eth->h_proto, false);
}
