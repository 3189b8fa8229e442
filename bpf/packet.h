/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_PACKET_H
#define WAGGLE_PACKET_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "addr.h"
#include "verdict.h"

/* RFC 791, 3.1: the "more fragments" bit and the offset. */
#define IP_MORE_OR_OFFSET 0x3fff
#define IP_MAX_HEADER 60

/* The byte of a TCP header that holds the flags. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Addresses and ports in network byte order. */
struct tuple {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto; /* IPPROTO_TCP, IPPROTO_UDP */
	__u8 egress; /* seen where packets leave the node, not where they enter */
};

struct packet {
	struct tuple tuple;
	__u32 l4_off; /* from the start of the packet's data */
	__u32 len; /* bytes from the IP header on, as the header says */
	__u32 seq; /* TCP: host byte order */
	__u32 ack;
	__u8 tcp_flags;
	__u8 ttl;
};

/* Ports stand at the same place in both. */
struct ports {
	__be16 source;
	__be16 dest;
};

static __always_inline enum verdict parse_l4(void *l4, void *end, struct packet *p)
{
	struct ports *ports = l4;
	struct tcphdr *tcp = l4;

	if (p->tuple.proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return VERDICT_UNPARSED;
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->seq = bpf_ntohl(tcp->seq);
		p->ack = bpf_ntohl(tcp->ack_seq);
	} else if (p->tuple.proto == IPPROTO_UDP) {
		if (l4 + sizeof(struct udphdr) > end)
			return VERDICT_UNPARSED;
	} else {
		return VERDICT_NOT_OURS;
	}
	p->tuple.sport = ports->source;
	p->tuple.dport = ports->dest;
	return VERDICT_COUNT;
}

static __always_inline enum verdict parse_v4(void *data, void *end, __u32 l3_off, struct packet *p)
{
	struct iphdr *ip = data + l3_off;
	__u32 header;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return VERDICT_UNPARSED;
	header = ip->ihl * 4;
	if (header < sizeof(*ip))
		return VERDICT_UNPARSED;
	if (ip->frag_off & bpf_htons(IP_MORE_OR_OFFSET))
		return VERDICT_FRAGMENT;
	p->tuple.saddr.word[0] = ip->saddr;
	p->tuple.daddr.word[0] = ip->daddr;
	p->tuple.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->len = bpf_ntohs(ip->tot_len);
	p->l4_off = l3_off + header;
	return parse_l4((void *)ip + header, end, p);
}

/* RFC 8200, 4: what may stand between the IPv6 header and the transport's. */
static __always_inline bool is_extension(__u8 nexthdr)
{
	return nexthdr == IPPROTO_HOPOPTS || nexthdr == IPPROTO_ROUTING ||
	       nexthdr == IPPROTO_DSTOPTS;
}

static __always_inline enum verdict parse_v6(void *data, void *end, __u32 l3_off, struct packet *p)
{
	struct ipv6hdr *ip = data + l3_off;
	enum verdict verdict;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return VERDICT_UNPARSED;
	addr_copy(AF_INET6, p->tuple.saddr.word, ip->saddr.in6_u.u6_addr32);
	addr_copy(AF_INET6, p->tuple.daddr.word, ip->daddr.in6_u.u6_addr32);
	p->tuple.proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	p->l4_off = l3_off + sizeof(*ip);
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return VERDICT_FRAGMENT;
	verdict = parse_l4(ip + 1, end, p);
	if (verdict == VERDICT_NOT_OURS && is_extension(ip->nexthdr))
		return VERDICT_UNPARSED;
	return verdict;
}

/* Reads a packet; VERDICT_COUNT means understood, all else is final. */
static __always_inline enum verdict parse(int family, void *data, void *end, __u32 l3_off,
					  struct packet *p)
{
	p->tuple.egress = 0;
	p->tcp_flags = 0;
	p->seq = 0;
	p->ack = 0;
	if (family == AF_INET)
		return parse_v4(data, end, l3_off, p);
	return parse_v6(data, end, l3_off, p);
}

#endif
