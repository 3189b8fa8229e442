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

#define TCP_CHECK_OFF 16
#define UDP_CHECK_OFF 6
/*
 * RFC 792: the offending header and the 64 bits behind it. But a checksum that
 * is yet to be filled in can't be cut off, so of TCP the whole header.
 */
#define QUOTED_L4 8

/*
 * Whether the sender left the transport checksum to its device: the field
 * then holds the pseudo header's sum, and is completed when the packet leaves,
 * over whatever we have made of it. No helper tells, but a change that is not
 * the pseudo header's is applied by bpf_l4_csum_replace in no other case.
 * The field is overwritten or put back by the caller.
 */
static __always_inline bool checksum_is_partial(struct __sk_buff *skb, __u32 off)
{
	__u16 before, after;

	if (bpf_skb_load_bytes(skb, off, &before, sizeof(before)) ||
	    bpf_l4_csum_replace(skb, off, 0, 1, 0) ||
	    bpf_skb_load_bytes(skb, off, &after, sizeof(after)))
		return false;
	if (before == after)
		return true;
	bpf_skb_store_bytes(skb, off, &before, sizeof(before), 0);
	return false;
}

static __always_inline __u64 csum_bytes(const void *data, __u32 size)
{
	return (__u32)bpf_csum_diff(NULL, 0, (void *)data, size, 0);
}

/* RFC 793 and RFC 8200, 8.1: the sum over the pseudo header. */
static __always_inline __u64 pseudo_header_sum(int family, const struct tuple *t, __u32 len)
{
	__u64 sum = bpf_htonl(len) + (__u64)bpf_htonl(t->proto);

	sum += (__u64)t->saddr.word[0] + t->daddr.word[0];
	if (family == AF_INET)
		return sum;
	sum += (__u64)t->saddr.word[1] + t->daddr.word[1];
	sum += (__u64)t->saddr.word[2] + t->daddr.word[2];
	return sum + t->saddr.word[3] + t->daddr.word[3];
}

/* Sends the packet's addresses, link layer included, the other way round. */
static __always_inline long swap_macs(struct __sk_buff *skb, __u32 l3_off)
{
	__u8 macs[2 * ETH_ALEN], swapped[2 * ETH_ALEN];

	if (!l3_off)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(swapped, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(swapped + ETH_ALEN, macs, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0);
}

static __always_inline long set_ttl(struct __sk_buff *skb, int family, __u32 l3_off, __u8 old,
				    __u8 ttl)
{
	/* no header checksum makes up for it in a device's sum over the packet */
	if (family == AF_INET6)
		return bpf_skb_store_bytes(skb, l3_off + offsetof(struct ipv6hdr, hop_limit), &ttl,
					   sizeof(ttl), BPF_F_RECOMPUTE_CSUM);
	if (bpf_l3_csum_replace(skb, l3_off + offsetof(struct iphdr, check), bpf_htons(old << 8),
				bpf_htons(ttl << 8), 2))
		return -1;
	return bpf_skb_store_bytes(skb, l3_off + offsetof(struct iphdr, ttl), &ttl, sizeof(ttl), 0);
}

static __always_inline long store_ip4(struct __sk_buff *skb, __u32 l3_off, const struct tuple *t,
				      __u32 len)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(len),
		.ttl = 64,
		.protocol = t->proto,
		.saddr = t->saddr.word[0],
		.daddr = t->daddr.word[0],
	};

	ip.check = csum_apply(0xffff, csum_bytes(&ip, sizeof(ip)));
	return bpf_skb_store_bytes(skb, l3_off, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline long store_ip6(struct __sk_buff *skb, __u32 l3_off, const struct tuple *t,
				      __u32 len)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(len - sizeof(ip)),
		.hop_limit = 64,
		.nexthdr = t->proto,
	};

	addr_copy(AF_INET6, ip.saddr.in6_u.u6_addr32, t->saddr.word);
	addr_copy(AF_INET6, ip.daddr.in6_u.u6_addr32, t->daddr.word);
	return bpf_skb_store_bytes(skb, l3_off, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* `len` counts from the IP header on. */
static __always_inline long store_ip(struct __sk_buff *skb, int family, __u32 l3_off,
				     const struct tuple *t, __u32 len)
{
	if (family == AF_INET)
		return store_ip4(skb, l3_off, t, len);
	return store_ip6(skb, l3_off, t, len);
}

static __always_inline __u32 ip_header_size(int family)
{
	return family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

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
	__u32 l4_off = l3_off + ip_header_size(family);
	struct tcphdr tcp = {};
	struct tuple back;
	__u32 payload;
	__u8 doff;
	__u64 sum;
	bool partial;

	if (p->l4_off != l4_off || bpf_skb_load_bytes(skb, l4_off + 12, &doff, sizeof(doff)))
		return -1;
	payload = p->len - ip_header_size(family) - (doff >> 4) * 4;
	make_reset(&tcp, p, payload);
	tuple_reverse(family, &p->tuple, false, &back);
	partial = checksum_is_partial(skb, l4_off + TCP_CHECK_OFF);
	if (bpf_skb_change_tail(skb, l4_off + sizeof(tcp), 0))
		return -1;
	sum = pseudo_header_sum(family, &back, sizeof(tcp));
	if (partial)
		tcp.check = ~csum_apply(0xffff, sum);
	else
		tcp.check = csum_apply(0xffff, sum + csum_bytes(&tcp, sizeof(tcp)));
	if (store_ip(skb, family, l3_off, &back, ip_header_size(family) + sizeof(tcp)))
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
static __always_inline bool quoted_sum(struct __sk_buff *skb, __u32 l3_off, const struct packet *p,
				       __u32 size, bool partial, __u64 *sum)
{
	struct scratch *s = scratch();
	__u32 check_off = p->tuple.proto == IPPROTO_TCP ? TCP_CHECK_OFF : UDP_CHECK_OFF;
	__u16 check = 0;

	if (!s)
		return false;
	if (partial) {
		size = p->l4_off - l3_off;
		if (bpf_skb_load_bytes(skb, p->l4_off + check_off, &check, sizeof(check)))
			return false;
		check = ~check;
	}
	__builtin_memset(s->quoted, 0, sizeof(s->quoted));
	/* as one comparison, of a difference, 6.1's verifier learns nothing from it */
	if (size < sizeof(struct iphdr))
		return false;
	barrier_var(size);
	if (size > sizeof(s->quoted) || bpf_skb_load_bytes(skb, l3_off, s->quoted, size))
		return false;
	*sum = csum_bytes(s->quoted, sizeof(s->quoted)) + check;
	return true;
}

/* Turns the packet into an ICMP message about itself, but for the link layer. */
static __always_inline long answer_icmp(struct __sk_buff *skb, int family, __u32 l3_off,
					const struct packet *p, struct icmp_header *icmp)
{
	__u32 header = ip_header_size(family);
	__u32 quoted = p->l4_off - l3_off + quoted_l4(p->tuple.proto);
	struct tuple back;
	bool partial;
	__u64 sum;

	tuple_reverse(family, &p->tuple, false, &back);
	back.proto = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	partial = quoted_is_partial(skb, p);
	if (bpf_skb_change_tail(skb, l3_off + quoted, 0))
		return -1;
	if (!quoted_sum(skb, l3_off, p, quoted, partial, &sum))
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

static __always_inline long refuse_udp(struct __sk_buff *skb, int family, __u32 l3_off,
				       const struct packet *p)
{
	struct icmp_header icmp = {
		.type = family == AF_INET ? ICMP_DEST_UNREACH : ICMPV6_DEST_UNREACH,
		.code = family == AF_INET ? ICMP_PORT_UNREACH : ICMPV6_PORT_UNREACH,
	};

	return answer_icmp(skb, family, l3_off, p, &icmp);
}

static __always_inline int refuse_family(struct __sk_buff *skb, int family, __u32 l3_off,
					 const struct packet *p)
{
	long ret;

	if (p->tuple.proto == IPPROTO_TCP)
		ret = refuse_tcp(skb, family, l3_off, p);
	else
		ret = refuse_udp(skb, family, l3_off, p);
	return ret || swap_macs(skb, l3_off);
}

__noinline int refuse4(struct __sk_buff *skb, __u32 l3_off, const struct packet *p)
{
	return p ? refuse_family(skb, AF_INET, l3_off, p) : -1;
}

__noinline int refuse6(struct __sk_buff *skb, __u32 l3_off, const struct packet *p)
{
	return p ? refuse_family(skb, AF_INET6, l3_off, p) : -1;
}

/*
 * RFC 1191, 4 and RFC 4443, 3.2: what a router says of a packet that its next
 * link can't carry. To one that may be fragmented it is said, too: the
 * programs that send past the stack do not fragment.
 */
static __always_inline int answer_too_big(struct __sk_buff *skb, int family, __u32 l3_off,
					  const struct packet *p, __u32 mtu)
{
	struct icmp_header icmp = {
		.type = family == AF_INET ? ICMP_DEST_UNREACH : ICMPV6_PACKET_TOO_BIG,
		.code = family == AF_INET ? ICMP_FRAG_NEEDED : 0,
		.data = bpf_htonl(mtu),
	};

	return answer_icmp(skb, family, l3_off, p, &icmp) || swap_macs(skb, l3_off);
}

__noinline int answer_too_big4(struct __sk_buff *skb, __u32 l3_off, const struct packet *p,
			       __u32 mtu)
{
	return p ? answer_too_big(skb, AF_INET, l3_off, p, mtu) : -1;
}

__noinline int answer_too_big6(struct __sk_buff *skb, __u32 l3_off, const struct packet *p,
			       __u32 mtu)
{
	return p ? answer_too_big(skb, AF_INET6, l3_off, p, mtu) : -1;
}

/* Turns the packet into its own refusal. Nonzero: it could not be done. */
static __always_inline int refuse(struct __sk_buff *skb, int family, __u32 l3_off,
				  const struct packet *p)
{
	return family == AF_INET ? refuse4(skb, l3_off, p) : refuse6(skb, l3_off, p);
}

#endif
