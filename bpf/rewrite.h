/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_REWRITE_H
#define WAGGLE_REWRITE_H

#include "crc32c.h"
#include "nexthop.h"
#include "refuse.h"

/*
 * A record applied in tc. A helper that writes costs as much as a lookup, so
 * the headers are made anew beside the packet and stored in one piece.
 */

enum rewrite_parts {
	REWRITE_SOURCE = 1,
	REWRITE_DEST = 2,
	REWRITE_HOP = 4, /* this node is one: takes one from the TTL */
	REWRITE_ALL = 7,
	REWRITE_MACS = 8, /* to those of the next hop */
};

static __always_inline bool head_copy(struct head *h, const __be32 *ip, __u32 words,
				      const void *end)
{
	__u32 i;

	if ((const void *)(ip + words) > end)
		return false;
#pragma unroll
	for (i = 0; i < words; i++)
		h->ip[i] = ip[i];
	return true;
}

static __always_inline bool head_read(struct __sk_buff *skb, int family, __u32 l3_off,
				      struct head *h)
{
	const __be32 *ip = (void *)(long)skb->data + (l3_off & 0xf); /* 14 or 0 */
	const void *end = (void *)(long)skb->data_end;

	if (family == AF_INET)
		return head_copy(h, ip, sizeof(struct iphdr) / 4, end);
	return head_copy(h, ip, sizeof(struct ipv6hdr) / 4, end);
}

/* Returns what the change of the TTL adds to the sum over the header. */
static __always_inline __u64 head_set_ttl(struct head *h, int family, __u8 ttl)
{
	struct ipv6hdr *ip6 = (void *)h->ip;
	struct iphdr *ip4 = (void *)h->ip;
	__u64 diff;

	if (family == AF_INET) {
		diff = csum_u16_diff(bpf_htons(ip4->ttl << 8), bpf_htons(ttl << 8));
		ip4->ttl = ttl;
	} else {
		diff = csum_u16_diff(bpf_htons(ip6->hop_limit), bpf_htons(ttl));
		ip6->hop_limit = ttl;
	}
	return diff;
}

static __always_inline void head_set_macs(struct head *h, int family, const struct hop *hop)
{
	__builtin_memcpy(h->eth.h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(h->eth.h_source, hop->smac, ETH_ALEN);
	h->eth.h_proto = bpf_htons(family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
}

/* RFC 9260, 6.8: no addresses are in it. */
__noinline int fix_sctp(struct __sk_buff *skb, const struct packet *p, const struct tuple *to)
{
	struct sctp_start sctp;
	__u32 off, len;

	if (!p || !to || bpf_skb_load_bytes(skb, p->l4_off, &sctp, sizeof(sctp)))
		return -1;
	off = p->l4_off + offsetof(struct sctp_start, checksum);
	len = p->len - (p->l4_off - p->l3_off);
	if (p->fragment == FRAGMENT_FIRST)
		len = sctp_alone(&sctp);
	sctp.checksum = sctp_checksum(sctp.checksum, p, to, len);
	return bpf_skb_store_bytes(skb, off, &sctp.checksum, sizeof(sctp.checksum),
				   BPF_F_RECOMPUTE_CSUM);
}

static __always_inline bool read_u16(struct __sk_buff *skb, __u32 off, __u16 *value)
{
	__u16 *at = (void *)(long)skb->data + (off & 0xff);

	if (off > 0xff || (void *)(at + 1) > (void *)(long)skb->data_end)
		return false;
	*value = *at;
	return true;
}

/*
 * The transport checksum, and a device's sum over the whole packet if there is
 * one (bpf_csum_update knows); XDP meets neither that nor a checksum yet to be
 * filled in (partial), which counts addresses only. In IPv4 the addresses' and
 * the TTL's change is made up for in the header, in IPv6 that of the addresses
 * is in the transport checksum.
 */
static __always_inline long tc_fix_l4(struct __sk_buff *skb, int family, const struct packet *p,
				      __u64 addr_diff, __u64 port_diff, __u64 ttl_diff)
{
	__u32 addr = csum_fold32(addr_diff), port = csum_fold32(port_diff);
	__u32 off = p->l4_off + TCP_CHECK_OFF;
	__u16 before, after;
	__u64 flags = 0;

	if (p->tuple.proto == IPPROTO_UDP) {
		off = p->l4_off + UDP_CHECK_OFF;
		flags = BPF_F_MARK_MANGLED_0;
	}
	/* See checksum_is_partial(): a partial one is left as it is by this. */
	if (!read_u16(skb, off, &before) ||
	    bpf_l4_csum_replace(skb, off, 0, csum_fold32(addr_diff + port_diff), flags) ||
	    !read_u16(skb, off, &after))
		return -1;
	if (before != after) {
		bpf_csum_update(skb, family == AF_INET ? ~addr : csum_fold32(ttl_diff));
		return 0;
	}
	/*
	 * Partial; or there is none; or the changes cancel each other out. Each
	 * by itself is right in all cases, but that the helper takes the addresses'
	 * change out of a device's sum as if an IPv4 header had made up for it.
	 */
	if (bpf_l4_csum_replace(skb, off, 0, addr, flags | BPF_F_PSEUDO_HDR))
		return -1;
	if (family == AF_INET6)
		bpf_csum_update(skb, csum_fold32(addr_diff + ttl_diff));
	return bpf_l4_csum_replace(skb, off, 0, port, flags);
}

/* Returns what the change adds to a sum over the addresses. */
static __always_inline __u64 head_set_addrs(struct head *h, int family, const struct packet *p,
					    const struct tuple *to, __u32 what)
{
	__be32 *saddr = h->ip + saddr_off(family) / 4;
	__u64 diff = 0;

	if (what & REWRITE_SOURCE) {
		diff = csum_addr_diff(family, p->tuple.saddr.word, to->saddr.word);
		addr_copy(family, saddr, to->saddr.word);
	}
	if (what & REWRITE_DEST) {
		diff += csum_addr_diff(family, p->tuple.daddr.word, to->daddr.word);
		addr_copy(family, saddr + addr_size(family) / 4, to->daddr.word);
	}
	return diff;
}

/* `ports` are stored with the header where they follow it, or else by themselves. */
static __always_inline long head_store(struct __sk_buff *skb, int family, __u32 l3_off,
				       struct head *h, const struct packet *p,
				       const struct ports *ports, __u32 what)
{
	bool follow = ports && p->tuple.proto != IPPROTO_SCTP &&
		      p->l4_off == l3_off + ip_size(family);
	__u32 size = ip_size(family);
	__u64 flags = 0;
	long ret;

	if (follow) {
		__builtin_memcpy(h->ip + size / 4, ports, sizeof(*ports));
		size += sizeof(*ports);
	}
	if (what & REWRITE_MACS)
		ret = bpf_skb_store_bytes(skb, 0, &h->eth, ETH_HLEN + size, 0);
	else
		ret = bpf_skb_store_bytes(skb, l3_off, h->ip, size, 0);
	if (ret || !ports || follow)
		return ret;
	/* nothing in the packet makes up for the ports in a device's sum */
	if (p->tuple.proto == IPPROTO_SCTP)
		flags = BPF_F_RECOMPUTE_CSUM;
	return bpf_skb_store_bytes(skb, p->l4_off, ports, sizeof(*ports), flags);
}

/* Makes of the packet as much of its record's rewrite as `what` (enum rewrite_parts) says. */
__noinline int tc_rewrite(struct __sk_buff *skb, struct scratch *s, __u32 what)
{
	__u64 addr_diff, ttl_diff = 0, port_diff;
	const struct packet *p;
	const struct tuple *to;
	struct ports ports;
	bool new_ports;
	int family;

	if (!s)
		return -1;
	p = &s->packet;
	to = &s->record.to;
	family = packet_family(p);
	if (!head_read(skb, family, p->l3_off, &s->head))
		return -1;
	if (what & REWRITE_MACS)
		head_set_macs(&s->head, family, &s->hop);
	addr_diff = head_set_addrs(&s->head, family, p, to, what);
	if (what & REWRITE_HOP)
		ttl_diff = head_set_ttl(&s->head, family, p->ttl - 1);
	if (family == AF_INET) {
		struct iphdr *ip = (void *)s->head.ip;

		ip->check = csum_apply(ip->check, addr_diff + ttl_diff);
	}
	ports.source = to->sport;
	ports.dest = to->dport;
	port_diff = csum_u16_diff(p->tuple.sport, ports.source) +
		    csum_u16_diff(p->tuple.dport, ports.dest);
	new_ports = p->fragment != FRAGMENT_LATER && tuple_ports(to) != tuple_ports(&p->tuple);
	if (head_store(skb, family, p->l3_off, &s->head, p, new_ports ? &ports : NULL, what))
		return -1;
	if (p->fragment != FRAGMENT_LATER && p->tuple.proto != IPPROTO_SCTP)
		return tc_fix_l4(skb, family, p, addr_diff, port_diff, ttl_diff);
	if (family == AF_INET6)
		bpf_csum_update(skb, csum_fold32(addr_diff + ttl_diff));
	return new_ports ? fix_sctp(skb, p, to) : 0;
}

#endif
