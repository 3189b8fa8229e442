/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_REFUSE_H
#define WAGGLE_REFUSE_H

#include "icmp.h"

/*
 * A frontend with no endpoints refuses at once: TCP with a reset, all else with
 * ICMP "port unreachable", each made from the packet itself and sent back
 * where it came from (tc only). The new headers are stored with the flag that
 * keeps a device's sum over the packet true.
 */

/*
 * RFC 792: the offending header and the 64 bits behind it. But a checksum that
 * is yet to be filled in can't be cut off, so of TCP the whole header.
 */
#define QUOTED_L4 8

/* RFC 9293, 3.10.7.1: the reset that a closed port sends. */
static __always_inline void make_reset(struct tcphdr *tcp, const struct packet *p, __u32 payload)
{
	tcp->source = p->tuple.dport;
	tcp->dest = p->tuple.sport;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (p->tcp_flags & TCP_ACK) {
		tcp->seq = bpf_htonl(p->ack);
		return;
	}
	tcp->ack = 1;
	tcp->ack_seq = bpf_htonl(p->seq + payload + !!(p->tcp_flags & TCP_SYN) +
				 !!(p->tcp_flags & TCP_FIN));
}

static __always_inline long refuse_tcp(struct __sk_buff *skb, int family, __u32 l3_off,
				       const struct packet *p)
{
	__u32 l4_off = l3_off + ip_size(family);
	struct tcphdr tcp = {};
	struct tuple back = {};
	__u32 payload;
	__u8 doff;
	__u64 sum;
	bool partial;

	if (p->l4_off != l4_off || bpf_skb_load_bytes(skb, l4_off + 12, &doff, sizeof(doff)))
		return -1;
	payload = p->len - ip_size(family) - (doff >> 4) * 4;
	make_reset(&tcp, p, payload);
	tuple_reverse(family, &p->tuple, 0, &back);
	partial = checksum_is_partial(skb, l4_off + TCP_CHECK_OFF);
	if (bpf_skb_change_tail(skb, l4_off + sizeof(tcp), 0))
		return -1;
	sum = pseudo_header_sum(family, &back, sizeof(tcp));
	if (partial)
		tcp.check = ~csum_apply(0xffff, sum);
	else
		tcp.check = csum_apply(0xffff, sum + csum_bytes(&tcp, sizeof(tcp)));
	if (store_ip(skb, family, l3_off, &back, ip_size(family) + sizeof(tcp)))
		return -1;
	return bpf_skb_store_bytes(skb, l4_off, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline __u32 quoted_l4(__u8 proto)
{
	return proto == IPPROTO_TCP ? QUOTED_TCP : QUOTED_L4;
}

/* Whether the packet's checksum is yet to be made, by a device that it leaves by. */
static __always_inline bool quoted_is_partial(struct __sk_buff *skb, const struct packet *p)
{
	if (p->tuple.proto == IPPROTO_TCP)
		return checksum_is_partial(skb, p->l4_off + TCP_CHECK_OFF);
	if (p->tuple.proto == IPPROTO_UDP)
		return checksum_is_partial(skb, p->l4_off + UDP_CHECK_OFF);
	return false;
}

/*
 * The sum of the packet as it will be when it has left: of a transport header
 * whose checksum is made then, nothing is left but the pseudo header's.
 */
static __always_inline bool quoted_sum(struct __sk_buff *skb, struct scratch *s, __u32 size,
				       bool partial, __u64 *sum)
{
	const struct packet *p = &s->packet;
	__u32 check_off = p->tuple.proto == IPPROTO_TCP ? TCP_CHECK_OFF : UDP_CHECK_OFF;
	__u16 check = 0;

	if (partial) {
		size = p->l4_off - p->l3_off;
		if (bpf_skb_load_bytes(skb, p->l4_off + check_off, &check, sizeof(check)))
			return false;
		check = ~check;
	}
	__builtin_memset(s->quoted, 0, sizeof(s->quoted));
	/* as one comparison, of a difference, 6.1's verifier learns nothing from it */
	if (size < sizeof(struct iphdr))
		return false;
	barrier_var(size);
	if (size > sizeof(s->quoted) || bpf_skb_load_bytes(skb, p->l3_off, s->quoted, size))
		return false;
	*sum = csum_bytes(s->quoted, sizeof(s->quoted)) + check;
	return true;
}

/* Turns the packet into an ICMP message about itself, but for the link layer. */
static __always_inline long answer_icmp(struct __sk_buff *skb, int family, struct scratch *s,
					struct icmp_header *icmp)
{
	const struct packet *p = &s->packet;
	__u32 l3_off = p->l3_off;
	__u32 header = ip_size(family);
	__u32 quoted = p->l4_off - l3_off + quoted_l4(p->tuple.proto);
	struct tuple back = {};
	bool partial;
	__u64 sum;

	tuple_reverse(family, &p->tuple, 0, &back);
	back.proto = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	partial = quoted_is_partial(skb, p);
	if (bpf_skb_change_tail(skb, l3_off + quoted, 0))
		return -1;
	if (!quoted_sum(skb, s, quoted, partial, &sum))
		return -1;
	sum += csum_bytes(icmp, sizeof(*icmp));
	if (family == AF_INET6)
		sum += pseudo_header_sum(family, &back, sizeof(*icmp) + quoted);
	icmp->checksum = csum_apply(0xffff, sum);
	if (bpf_skb_adjust_room(skb, header + sizeof(*icmp), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	if (store_ip(skb, family, l3_off, &back, header + sizeof(*icmp) + quoted))
		return -1;
	return bpf_skb_store_bytes(skb, l3_off + header, icmp, sizeof(*icmp), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline long refuse_udp(struct __sk_buff *skb, int family, struct scratch *s)
{
	struct icmp_header icmp = {
		.type = family == AF_INET ? ICMP_DEST_UNREACH : ICMPV6_DEST_UNREACH,
		.code = family == AF_INET ? ICMP_PORT_UNREACH : ICMPV6_PORT_UNREACH,
	};

	return answer_icmp(skb, family, s, &icmp);
}

/*
 * RFC 1191, 4 and RFC 4443, 3.2: what a router says of a packet that its next
 * link can't carry. To one that may be fragmented it is said, too: the
 * programs that send past the stack do not fragment. Nonzero: it could not be
 * done.
 */
__noinline int answer_too_big(struct __sk_buff *skb, struct scratch *s, __u32 mtu)
{
	struct icmp_header icmp = { .type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED };
	int family;

	if (!s)
		return -1;
	family = packet_family(&s->packet);
	icmp.data = bpf_htonl(mtu);
	if (family == AF_INET6) {
		icmp.type = ICMPV6_PACKET_TOO_BIG;
		icmp.code = 0;
	}
	return answer_icmp(skb, family, s, &icmp) || swap_macs(skb, s->packet.l3_off);
}

/* Turns the packet into its own refusal. Nonzero: it could not be done. */
__noinline int refuse(struct __sk_buff *skb, struct scratch *s)
{
	const struct packet *p;
	int family;
	long ret;

	if (!s)
		return -1;
	p = &s->packet;
	family = packet_family(p);
	if (p->tuple.proto == IPPROTO_TCP)
		ret = refuse_tcp(skb, family, p->l3_off, p);
	else
		ret = refuse_udp(skb, family, s);
	return ret || swap_macs(skb, p->l3_off);
}

#endif
