/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_PACKET_H
#define WAGGLE_PACKET_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "tuple.h"
#include "verdict.h"

/* RFC 791, 3.1: the "more fragments" bit and the offset. */
#define IP_MORE_OR_OFFSET 0x3fff
#define IP_MAX_HEADER 60

/* The byte of a TCP header that holds the flags. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static __always_inline __u32 saddr_off(int family)
{
	return family == AF_INET ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr);
}

static __always_inline __u32 addr_size(int family)
{
	return family == AF_INET ? 4 : 16;
}

static __always_inline __u32 ip_size(int family)
{
	return family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

enum fragment {
	FRAGMENT_NONE, /* a whole packet */
	FRAGMENT_FIRST,
	FRAGMENT_LATER, /* no transport header: nothing behind the IP header may be touched */
};

struct packet {
	struct tuple tuple;
	__u32 l4_off; /* from the start of the packet's data */
	__u32 len; /* bytes from the IP header on, as the header says */
	__u32 seq; /* TCP and, in its terms, SCTP: host byte order */
	__u32 ack;
	__u32 fragment_id; /* as in the header */
	__be32 ip_word; /* the first of the IP header: traffic class and flow label */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 l4_len; /* of the transport header, in bytes */
	__u8 fragment; /* enum fragment */
	__u8 family; /* AF_INET or AF_INET6 */
	__u8 l3_off; /* of the IP header: ETH_HLEN, or 0 where there is no link layer */
};

static __always_inline int packet_family(const struct packet *p)
{
	return family_of(p->family);
}

/* GRO makes packets of more than 64 KiB, whose header says 0. */
#define LENGTH_UNKNOWN 0x7fffffff

/*
 * RFC 9260, 3.1 and 3.3.2: the common header, and the first chunk as far as
 * it shows how an association comes and goes.
 */
struct sctp_start {
	struct ports ports;
	__be32 tag;
	__le32 checksum;
	__u8 chunk;
	__u8 flags;
	__be16 length;
};

#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_SHUTDOWN_COMPLETE 14

/*
 * An association in TCP's terms: INIT and INIT ACK are SYN and SYN-ACK, and
 * the tag that the INIT ACK asks for, which a host that didn't get it can't
 * guess, is what acknowledges it.
 */
static __always_inline enum verdict parse_sctp(struct sctp_start *sctp, void *end, __s32 len,
					       struct packet *p)
{
	__be32 *init_tag = (void *)(sctp + 1);

	if ((void *)(sctp + 1) > end || len < (__s32)sizeof(*sctp) || len == LENGTH_UNKNOWN)
		return VERDICT_UNPARSED;
	p->l4_len = offsetof(struct sctp_start, chunk);
	p->ack = bpf_ntohl(sctp->tag);
	switch (sctp->chunk) {
	case SCTP_INIT:
		p->tcp_flags = TCP_SYN;
		break;
	case SCTP_INIT_ACK:
		if ((void *)(init_tag + 1) > end ||
		    len < (__s32)(sizeof(*sctp) + sizeof(*init_tag)))
			return VERDICT_UNPARSED;
		p->tcp_flags = TCP_SYN | TCP_ACK;
		p->seq = bpf_ntohl(*init_tag) - 1;
		break;
	case SCTP_ABORT:
		p->tcp_flags = TCP_RST;
		break;
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_ACK:
	case SCTP_SHUTDOWN_COMPLETE:
		p->tcp_flags = TCP_FIN | TCP_ACK;
		break;
	default:
		p->tcp_flags = TCP_ACK;
	}
	return VERDICT_NONE;
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/*
 * `len`: from the transport header on, as the IP header says. What is behind
 * that is padding, and not to be taken for ports.
 */
static __always_inline enum verdict parse_l4(void *l4, void *end, __s32 len, struct packet *p)
{
	struct ports *ports = l4;
	struct tcphdr *tcp = l4;

	if (p->tuple.proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end || len < (__s32)sizeof(*tcp))
			return VERDICT_UNPARSED;
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->l4_len = tcp->doff * 4;
		p->seq = bpf_ntohl(tcp->seq);
		p->ack = bpf_ntohl(tcp->ack_seq);
	} else if (p->tuple.proto == IPPROTO_UDP) {
		if (l4 + sizeof(struct udphdr) > end || len < (__s32)sizeof(struct udphdr))
			return VERDICT_UNPARSED;
		p->l4_len = sizeof(struct udphdr);
	} else if (p->tuple.proto == IPPROTO_SCTP) {
		if (parse_sctp(l4, end, len, p) != VERDICT_NONE)
			return VERDICT_UNPARSED;
	} else {
		return VERDICT_NOT_OURS;
	}
	tuple_set_word(&p->tuple, *(__u32 *)ports, p->tuple.proto, p->tuple.zone);
	return VERDICT_NONE;
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
	p->tuple.saddr.word[0] = ip->saddr;
	p->tuple.daddr.word[0] = ip->daddr;
	p->tuple.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->ip_word = *(__be32 *)ip;
	p->len = bpf_ntohs(ip->tot_len);
	p->l4_off = l3_off + header;
	if (ip->frag_off & bpf_htons(IP_MORE_OR_OFFSET))
		return VERDICT_FRAGMENT;
	return parse_l4((void *)ip + header, end,
			p->len ? (__s32)(p->len - header) : LENGTH_UNKNOWN, p);
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
	p->ip_word = *(__be32 *)ip;
	p->len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	p->l4_off = l3_off + sizeof(*ip);
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return VERDICT_FRAGMENT;
	verdict = parse_l4(ip + 1, end,
			   ip->payload_len ? bpf_ntohs(ip->payload_len) : LENGTH_UNKNOWN, p);
	if (verdict == VERDICT_NOT_OURS && is_extension(ip->nexthdr))
		return VERDICT_UNPARSED;
	return verdict;
}

/*
 * Reads a packet; VERDICT_NONE means understood. Of a fragment the addresses
 * are read, for a hook that knows its first fragment; all else is final.
 */
static __always_inline enum verdict parse(int family, enum zone zone, void *data, void *end,
					  __u32 l3_off, struct packet *p)
{
	p->family = family;
	p->l3_off = l3_off;
	p->tuple.zone = zone;
	p->fragment = FRAGMENT_NONE;
	p->tcp_flags = 0;
	p->seq = 0;
	p->ack = 0;
	if (family == AF_INET)
		return parse_v4(data, end, l3_off, p);
	return parse_v6(data, end, l3_off, p);
}

#endif
