/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_ICMP_H
#define WAGGLE_ICMP_H

#include "edit.h"
#include "fragment.h"
#include "scratch.h"

/*
 * ICMP errors quote the packet that they are about, as it was where it failed:
 * translated. They are given to the host that the untranslated packet came from, quoting
 * that one. Both follow from one record: the error is about a packet Q, so it
 * travels the way that Q's answer would, and an answer to Q is rewritten by the
 * record of Q reversed. Reversing that rewrite gives Q as its sender knows it.
 *
 * The quoted transport checksum stays: no receiver can verify it, since the
 * quote is cut off.
 */

/* RFC 792 and RFC 4443, 3.1 and 3.2. The kernel's header needs the C library's. */
#define ICMP_DEST_UNREACH 3
#define ICMP_PORT_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PORT_UNREACH 4
#define ICMPV6_PACKET_TOO_BIG 2
#define ICMPV6_PARAMETER_PROBLEM 4

struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 data; /* unused, or the MTU */
};

static __always_inline bool is_icmp(int family, __u8 proto)
{
	return proto == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool is_icmp_error(int family, __u8 type)
{
	if (family == AF_INET)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
		       type == ICMP_PARAMETER_PROBLEM;
	return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMETER_PROBLEM;
}

static __always_inline bool icmp_quoted4(struct __sk_buff *skb, struct icmp_error *e)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, e->inner_off, &ip, sizeof(ip)))
		return false;
	if (ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(IP_OFFSET))
		return false;
	e->quoted.saddr.word[0] = ip.saddr;
	e->quoted.daddr.word[0] = ip.daddr;
	e->quoted.proto = ip.protocol;
	e->ports_off = e->inner_off + ip.ihl * 4;
	return true;
}

static __always_inline bool icmp_quoted6(struct __sk_buff *skb, struct icmp_error *e)
{
	struct ipv6hdr ip;
	struct frag6 frag;

	if (bpf_skb_load_bytes(skb, e->inner_off, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	addr_copy(AF_INET6, e->quoted.saddr.word, ip.saddr.in6_u.u6_addr32);
	addr_copy(AF_INET6, e->quoted.daddr.word, ip.daddr.in6_u.u6_addr32);
	e->quoted.proto = ip.nexthdr;
	e->ports_off = e->inner_off + sizeof(ip);
	if (ip.nexthdr != IPPROTO_FRAGMENT)
		return true;
	if (bpf_skb_load_bytes(skb, e->ports_off, &frag, sizeof(frag)) ||
	    frag.offset & bpf_htons(IP6_OFFSET))
		return false;
	e->quoted.proto = frag.nexthdr;
	e->ports_off += sizeof(frag);
	return true;
}

/*
 * Reads what an ICMP error is about: the quoted packet's tuple, and in s->other
 * that of an answer to it. False: it is no error, or quotes nothing that we
 * translate.
 */
__noinline int icmp_read(struct __sk_buff *skb, struct scratch *s)
{
	const struct packet *p;
	struct icmp_header icmp;
	struct icmp_error *e;
	__u32 ports;
	int family;

	if (!s)
		return false;
	p = &s->packet;
	family = packet_family(p);
	if (!is_icmp(family, p->tuple.proto) ||
	    bpf_skb_load_bytes(skb, p->l4_off, &icmp, sizeof(icmp)) ||
	    !is_icmp_error(family, icmp.type))
		return false;
	e = &s->icmp;
	e->inner_off = p->l4_off + sizeof(icmp);
	if (!(family == AF_INET ? icmp_quoted4(skb, e) : icmp_quoted6(skb, e)))
		return false;
	if (e->ports_off + sizeof(ports) > p->l3_off + p->len) /* padding is in no checksum */
		return false;
	if (!has_ports(e->quoted.proto) ||
	    bpf_skb_load_bytes(skb, e->ports_off, &ports, sizeof(ports)))
		return false;
	tuple_set_word(&e->quoted, ports, e->quoted.proto, p->tuple.zone);
	tuple_reverse(family, &e->quoted, p->tuple.zone, &s->other.key);
	return true;
}

static __always_inline bool icmp_alive(int family, const struct tuple *t, struct scratch *s)
{
	return flow_lookup(family, t, &s->record) && !flow_ended(family, t, &s->record, &s->mirror);
}

/*
 * Finds the record of the answer to what the error quotes, into s->record,
 * with its key in s->other. A split flow's are not where its errors leave the
 * node:
 *
 * To the client: the kernel couldn't route on what it knew between the two
 * hooks, and quotes it so. The answer is that to the packet as it would have
 * left.
 *
 * To the backend: ingress has translated all but the error's source, which is
 * translated as that of the flow's packets is, by the third record.
 */
__noinline int icmp_flow(struct scratch *s)
{
	struct tuple *quoted, *answer;
	int family;
	__u32 i;

	if (!s)
		return 0;
	family = packet_family(&s->packet);
	quoted = &s->icmp.quoted;
	answer = &s->other.key;
	if (icmp_alive(family, answer, s))
		return 1;
	if (quoted->zone != ZONE_LEAVING)
		return 0;
	if (icmp_alive(family, quoted, s) && s->record.flags & FLOW_SPLIT_SOURCE) {
		flow_mirror(family, &s->record, answer);
		return icmp_alive(family, answer, s);
	}
	for (i = 0; i < 2; i++) {
		quoted->zone = i ? ZONE_POD : ZONE_OUTSIDE;
		if (!icmp_alive(family, quoted, s) || !(s->record.flags & FLOW_SPLIT))
			continue;
		flow_mirror(family, &s->record, answer);
		return icmp_alive(family, answer, s);
	}
	return 0;
}

/*
 * The quoted packet as its sender knows it: the record's rewrite reversed. *diff: what that
 * changes in the ICMP message's sum; in IPv4 the addresses and their header's
 * checksum cancel out.
 */
static __always_inline long icmp_rewrite_quoted(struct __sk_buff *skb, int family,
						const struct scratch *s, __u64 *diff)
{
	const struct icmp_error *e = &s->icmp;
	const struct tuple *to = &s->record.to;
	struct ports ports = { .source = to->dport, .dest = to->sport };
	__u32 off = e->inner_off + saddr_off(family);
	__u64 addrs = 0;

	if (!replace_addr(skb, family, off, &e->quoted.saddr, &to->daddr, &addrs) ||
	    !replace_addr(skb, family, off + addr_size(family), &e->quoted.daddr, &to->saddr,
			  &addrs))
		return -1;
	if (family == AF_INET) {
		if (store_checksum(skb, e->inner_off + offsetof(struct iphdr, check), addrs))
			return -1;
	} else {
		*diff += addrs;
	}
	*diff += csum_u16_diff(e->quoted.sport, ports.source) +
		 csum_u16_diff(e->quoted.dport, ports.dest);
	return bpf_skb_store_bytes(skb, e->ports_off, &ports, sizeof(ports), BPF_F_RECOMPUTE_CSUM);
}

/*
 * Translates the error at hand. Its source changes only where the flow's does: a
 * router's address says more than ours, but a network that knows the flow by
 * our address need not carry another.
 */
__noinline int icmp_rewrite(struct __sk_buff *skb, struct scratch *s, bool source, bool dest)
{
	const struct packet *p;
	const struct tuple *to;
	__u64 outer = 0, diff = 0;
	__u32 off, l3_off;
	int family;

	if (!s)
		return -1;
	p = &s->packet;
	to = &s->record.to;
	family = packet_family(p);
	l3_off = p->l3_off;
	off = l3_off + saddr_off(family);
	if (icmp_rewrite_quoted(skb, family, s, &diff))
		return -1;
	if (source && !addr_equal(family, to->saddr.word, s->other.key.saddr.word) &&
	    !replace_addr(skb, family, off, &p->tuple.saddr, &to->saddr, &outer))
		return -1;
	if (dest && !replace_addr(skb, family, off + addr_size(family), &p->tuple.daddr, &to->daddr,
				  &outer))
		return -1;
	if (family == AF_INET)
		return store_checksum(skb, l3_off + offsetof(struct iphdr, check), outer) ||
		       store_checksum(skb, p->l4_off + offsetof(struct icmp_header, checksum),
				      diff);
	return store_checksum(skb, p->l4_off + offsetof(struct icmp_header, checksum),
			      diff + outer);
}

#endif
