/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_ANNOUNCE_H
#define WAGGLE_ANNOUNCE_H

#include "edit.h"
#include "scratch.h"
#include "trace.h"

/*
 * Addresses of load balancers that this node announces on the local network.
 * No device of the node has such an address, so the kernel does not answer for
 * it: the programs answer ARP requests (RFC 826, RFC 5227) and neighbour
 * solicitations (RFC 4861). The agent writes which addresses these are, and until
 * when. It writes that time again several times a second, so a node with
 * no agent stops to answer when the last one has passed.
 *
 * All else is left to the stack: what asks for other addresses, or is malformed.
 */

/* An address, and a device on which it is announced. */
struct announced_key {
	__u32 ifindex;
	struct addr addr; /* IPv4 as IPv4-mapped: both families are in one map */
};

struct announcement {
	__u64 answered; /* requests and solicitations */
	__u64 lapsed; /* those that came after `announce_until` */
	__u8 mac[ETH_ALEN]; /* the device's */
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct announced_key);
	__type(value, struct announcement);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} announced SEC(".maps");

/* When the programs stop to answer: ns of CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} announce_until SEC(".maps");

static __always_inline bool announce_lapsed(void)
{
	__u32 zero = 0;
	volatile __u64 *until = bpf_map_lookup_elem(&announce_until, &zero);

	return !until || bpf_ktime_get_ns() >= *until;
}

/* Whether the frame at hand is for a device with the MAC, or for many. */
static __always_inline bool sent_to_mac(const struct who_has *w, const __u8 *mac)
{
	return w->eth.h_dest[0] & 1 || !__builtin_memcmp(w->eth.h_dest, mac, ETH_ALEN);
}

/* The element of an address at the device of the frame at hand. NULL: it is not announced there. */
static __always_inline struct announcement *announced_get(const struct scratch *s, int family,
							  const struct addr *addr)
{
	struct announced_key key = { .ifindex = s->ifindex };

	if (family == AF_INET) {
		key.addr.word[2] = bpf_htonl(0xffff);
		key.addr.word[3] = addr->word[0];
	} else {
		key.addr = *addr;
	}
	return bpf_map_lookup_elem(&announced, &key);
}

/* The MAC that is the answer to the frame in s->who_has. NULL: this node does not answer it. */
static __always_inline const __u8 *announced_mac(const struct scratch *s, int family)
{
	struct announcement *a = announced_get(s, family, &s->who_has.target);

	note(TRACE_WHO_HAS);
	if (!a)
		return NULL;
	note(TRACE_ANNOUNCED);
	if (!sent_to_mac(&s->who_has, a->mac))
		return NULL;
	if (!announce_lapsed())
		return a->mac;
	note(TRACE_LAPSED);
	if (!explain)
		__sync_fetch_and_add(&a->lapsed, 1);
	return NULL;
}

/* The frame, of `len` bytes, is answered. It is counted, and made a packet of no flow for those who watch. */
static __always_inline void answer_done(struct scratch *s, int family, __u32 len)
{
	struct announcement *a = announced_get(s, family, &s->who_has.target);
	struct packet *p = &s->packet;

	if (a && !explain)
		__sync_fetch_and_add(&a->answered, 1);
	p->family = family;
	p->l3_off = ETH_HLEN;
	p->len = len - ETH_HLEN;
	p->tcp_flags = 0;
	p->tuple.saddr = s->who_has.sender;
	p->tuple.daddr = s->who_has.target;
	tuple_set_word(&p->tuple, 0, family == AF_INET ? 0 : IPPROTO_ICMPV6, ZONE_OUTSIDE);
	s->record.service = 0;
	s->record.backend = 0;
}

/* A MAC that one host can have. */
static __always_inline bool is_host_mac(const __u8 *mac)
{
	return !(mac[0] & 1) && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

/*
 * A request with its target as its sender is no question: that host says that it has the
 * address (RFC 5227, 3). A sender of 0 asks whether any host has it (a probe, 2.1.1).
 */
static __always_inline bool arp_read(struct who_has *w)
{
	const struct arp *arp = &w->arp;

	__builtin_memcpy(w->sender.word, arp->sender, sizeof(arp->sender));
	__builtin_memcpy(w->target.word, arp->target, sizeof(arp->target));
	return arp->hardware == bpf_htons(ARP_ETHERNET) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_len == ETH_ALEN && arp->protocol_len == sizeof(arp->sender) &&
	       arp->operation == bpf_htons(ARP_REQUEST) && is_host_mac(arp->sender_mac) &&
	       w->sender.word[0] != w->target.word[0];
}

/* Makes of the ARP request in s->who_has its reply. Nonzero: done. */
__noinline int arp_answer(struct scratch *s)
{
	struct who_has *w;
	struct arp *arp;
	const __u8 *mac;

	if (!s)
		return 0;
	w = &s->who_has;
	arp = &w->arp;
	if (!arp_read(w))
		return 0;
	mac = announced_mac(s, AF_INET);
	if (!mac)
		return 0;
	arp->operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(w->eth.h_dest, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(w->eth.h_source, mac, ETH_ALEN);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->target, w->sender.word, sizeof(arp->target));
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	__builtin_memcpy(arp->sender, w->target.word, sizeof(arp->sender));
	return 1;
}

/* What parse() does not take may be a solicitation. */
static __always_inline bool may_solicit(int family, int verdict, const struct packet *p)
{
	return family == AF_INET6 && verdict == VERDICT_NOT_OURS &&
	       p->tuple.proto == IPPROTO_ICMPV6;
}

/*
 * How many bytes of a frame with an IPv6 header are read, if it may be a solicitation
 * (RFC 4861, 7.1.1); 0: it is none.
 */
static __always_inline __u32 nd_frame_size(const struct ipv6hdr *ip)
{
	__u32 len = bpf_ntohs(ip->payload_len);

	if (ip->version != 6 || ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != ND_HOP_LIMIT)
		return 0;
	if (len < ND_HEADER || len > sizeof(struct nd_message) || len % ND_OPTION_UNIT)
		return 0;
	return ETH_HLEN + sizeof(*ip) + len;
}

/* RFC 4291, 2.7.1: ff02::1:ff00:0/104, with the last 24 bits of the target. */
static __always_inline bool is_solicited_node(const __be32 *dst, const struct addr *target)
{
	return dst[0] == bpf_htonl(0xff020000) && !dst[1] && dst[2] == bpf_htonl(1) &&
	       dst[3] == (target->word[3] | bpf_htonl(0xff000000));
}

/* Reads options of `units` in all. False: they are malformed. *source: the MAC that the sender says it has. */
static __always_inline bool nd_options(const struct nd_message *nd, __u32 units,
				       const __u8 **source)
{
	const struct nd_option *o;
	__u32 i, next = 0;

#pragma unroll
	for (i = 0; i < ND_OPTIONS; i++) {
		if (i < next || i >= units)
			continue;
		o = &nd->options[i];
		if (!o->units)
			return false;
		next = i + o->units;
		if (o->type == ND_SOURCE_LINK_ADDR && o->units == 1)
			*source = o->mac;
	}
	return next <= units;
}

/* The sum over the pseudo header and the message, behind which all is 0. */
static __always_inline __u64 nd_sum(const struct who_has *w, __u32 len)
{
	return csum_bytes(&w->ip.saddr, 2 * sizeof(struct addr)) +
	       csum_bytes(&w->nd, sizeof(w->nd)) + bpf_htonl(len) + bpf_htonl(IPPROTO_ICMPV6);
}

/*
 * Whether the message is a valid solicitation (RFC 4861, 7.1.1). The source of the frame becomes the MAC to be
 * answered. A sender with no address asks whether any host has this one (RFC 4862, 5.4).
 */
static __always_inline bool nd_read(struct who_has *w)
{
	__u32 len = bpf_ntohs(w->ip.payload_len);
	const __be32 *dst = w->ip.daddr.in6_u.u6_addr32;
	const __u8 *source = NULL;
	bool many;

	addr_copy(AF_INET6, w->sender.word, w->ip.saddr.in6_u.u6_addr32);
	w->target = w->nd.target;
	many = is_solicited_node(dst, &w->target);
	if (w->nd.type != ND_SOLICITATION || w->nd.code || csum_apply(0xffff, nd_sum(w, len)) ||
	    !nd_options(&w->nd, (len - ND_HEADER) / ND_OPTION_UNIT, &source))
		return false;
	if (!many && !addr_equal(AF_INET6, dst, w->target.word))
		return false;
	if (addr_is_zero(AF_INET6, w->sender.word))
		return many && !source && is_host_mac(w->eth.h_source);
	if (source)
		__builtin_memcpy(w->eth.h_source, source, ETH_ALEN);
	return addr_is_sender(AF_INET6, w->sender.word) && is_host_mac(w->eth.h_source);
}

/* To the sender; or, if it has no address, to ff02::1 and the MAC that RFC 2464, 7 makes of that. */
static __always_inline void nd_address(struct who_has *w, const __u8 *mac, bool probe)
{
	__be32 *dst = w->ip.daddr.in6_u.u6_addr32;

	__builtin_memcpy(w->eth.h_dest, w->eth.h_source, ETH_ALEN);
	__builtin_memcpy(w->eth.h_source, mac, ETH_ALEN);
	addr_copy(AF_INET6, w->ip.saddr.in6_u.u6_addr32, w->target.word);
	addr_copy(AF_INET6, dst, w->sender.word);
	if (!probe)
		return;
	dst[0] = bpf_htonl(0xff020000);
	dst[3] = bpf_htonl(1);
	__builtin_memset(w->eth.h_dest, 0, ETH_ALEN);
	w->eth.h_dest[0] = 0x33;
	w->eth.h_dest[1] = 0x33;
	w->eth.h_dest[5] = 1;
}

/* Makes of the solicitation in s->who_has the advertisement (RFC 4861, 7.2.4). Nonzero: done. */
__noinline int nd_answer(struct scratch *s)
{
	const __u32 len = ND_HEADER + sizeof(struct nd_option);
	struct nd_message *nd;
	struct who_has *w;
	const __u8 *mac;
	bool probe;

	if (!s)
		return 0;
	w = &s->who_has;
	nd = &w->nd;
	if (!nd_read(w))
		return 0;
	mac = announced_mac(s, AF_INET6);
	if (!mac)
		return 0;
	probe = addr_is_zero(AF_INET6, w->sender.word);
	nd_address(w, mac, probe);
	*(__be32 *)&w->ip = bpf_htonl(6 << 28); /* no traffic class and no flow label */
	w->ip.payload_len = bpf_htons(len);
	nd->type = ND_ADVERTISEMENT;
	nd->flags = bpf_htonl(probe ? ND_OVERRIDE : ND_OVERRIDE | ND_SOLICITED);
	__builtin_memset(nd->options, 0, sizeof(nd->options));
	nd->options[0].type = ND_TARGET_LINK_ADDR;
	nd->options[0].units = 1;
	__builtin_memcpy(nd->options[0].mac, mac, ETH_ALEN);
	nd->checksum = 0;
	nd->checksum = csum_apply(0xffff, nd_sum(w, len));
	return 1;
}

#endif
