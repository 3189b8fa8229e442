/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_FRAGMENT_H
#define WAGGLE_FRAGMENT_H

#include "config.h"
#include "packet.h"
#include "runtime.h"

/*
 * Only the first fragment of a packet has ports; the later ones are known by
 * the packet's identification (RFC 791, 3.2; RFC 8200, 4.5). A later one that
 * overtakes the first is left to the stack, as all fragments are by XDP.
 */
struct fragment_key {
	__be32 saddr[4];
	__be32 daddr[4];
	__u32 id; /* as in the header */
	__u8 family; /* 4 or 6 */
	__u8 proto;
	__u8 zone;
	__u8 pad;
};

struct fragment_ports {
	__be16 sport;
	__be16 dport;
	__u32 seen; /* jiffies: when the first one came */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

/* Seconds for which the kernel waits for the rest of a packet, net/ipv4/ip_fragment.c. */
#define FRAGMENT_TIME 30

#define IP_OFFSET 0x1fff

/* RFC 8200, 4.5 */
struct frag6 {
	__u8 nexthdr;
	__u8 reserved;
	__be16 offset; /* in its upper 13 bits */
	__be32 id;
};

#define IP6_OFFSET 0xfff8

static __always_inline void fragment_key(int family, const struct packet *p,
					 struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	addr_copy(family, key->saddr, p->tuple.saddr.word);
	addr_copy(family, key->daddr, p->tuple.daddr.word);
	key->id = p->fragment_id;
	key->family = family == AF_INET ? 4 : 6;
	key->proto = p->tuple.proto;
	key->zone = p->tuple.zone;
}

/* Reads which fragment of which packet this is. */
static __always_inline bool fragment_place(struct __sk_buff *skb, int family, __u32 l3_off,
					   struct packet *p)
{
	struct frag6 frag6;
	struct iphdr ip;
	bool first;

	if (family == AF_INET) {
		if (bpf_skb_load_bytes(skb, l3_off, &ip, sizeof(ip)))
			return false;
		p->fragment_id = ip.id;
		first = !(ip.frag_off & bpf_htons(IP_OFFSET));
	} else {
		if (bpf_skb_load_bytes(skb, p->l4_off, &frag6, sizeof(frag6)))
			return false;
		p->fragment_id = frag6.id;
		p->tuple.proto = frag6.nexthdr;
		p->l4_off += sizeof(frag6);
		first = !(frag6.offset & bpf_htons(IP6_OFFSET));
	}
	p->fragment = first ? FRAGMENT_FIRST : FRAGMENT_LATER;
	return true;
}

/*
 * How long an SCTP packet is, from its header on, that has this chunk only
 * (RFC 9260, 3.2).
 */
static __always_inline __u32 sctp_alone(const struct sctp_start *sctp)
{
	return offsetof(struct sctp_start, chunk) + ((bpf_ntohs(sctp->length) + 3) & ~3U);
}

/*
 * An SCTP checksum can't be changed without the length of the whole, which a
 * first fragment of `len` bytes shows if its chunk is larger: a sender lets IP
 * cut only what it can't send in another way, a chunk that was made before it
 * learnt of a smaller MTU. Of an INIT ACK more would have to be read.
 */
static __always_inline bool sctp_unsized(const struct sctp_start *sctp, __s32 len)
{
	__s32 whole = sctp_alone(sctp);

	return len >= (__s32)sizeof(*sctp) &&
	       (whole < len || whole > 0xffff || sctp->chunk == SCTP_INIT_ACK);
}

/* Completes what parse() has read of a fragment. */
__noinline int fragment_resolve(struct __sk_buff *skb, struct packet *p)
{
	struct fragment_ports *ports;
	struct fragment_key key;
	__u8 l4[sizeof(struct tcphdr)] = {};
	__u32 size = sizeof(struct udphdr);
	int family;
	__s32 len;

	if (!p)
		return VERDICT_UNPARSED;
	family = packet_family(p);
	if (!fragment_place(skb, family, p->l3_off, p))
		return VERDICT_UNPARSED;
	if (!has_ports(p->tuple.proto))
		return VERDICT_FRAGMENT;
	if (p->fragment == FRAGMENT_FIRST) {
		if (p->tuple.proto == IPPROTO_TCP)
			size = sizeof(struct tcphdr);
		else if (p->tuple.proto == IPPROTO_SCTP)
			size = sizeof(struct sctp_start);
		if (bpf_skb_load_bytes(skb, p->l4_off, l4, size))
			return VERDICT_UNPARSED;
		len = p->len - (p->l4_off - p->l3_off);
		if (p->tuple.proto == IPPROTO_SCTP && sctp_unsized((void *)l4, len))
			return VERDICT_FRAGMENT;
		return parse_l4(l4, l4 + sizeof(l4), len, p);
	}
	fragment_key(family, p, &key);
	ports = bpf_map_lookup_elem(&fragments, &key);
	if (!ports || now() - ports->seen > FRAGMENT_TIME * hz)
		return VERDICT_FRAGMENT;
	tuple_set_word(&p->tuple, ports->sport | (__u32)ports->dport << 16, p->tuple.proto,
		       p->tuple.zone);
	return VERDICT_NONE;
}

/* A first fragment is about to be rewritten: the later ones shall be, too. */
__noinline int fragment_note(const struct packet *p)
{
	struct fragment_ports ports = {};
	struct fragment_key key;

	if (!p || explain)
		return 0;
	ports.sport = p->tuple.sport;
	ports.dport = p->tuple.dport;
	ports.seen = now();
	fragment_key(packet_family(p), p, &key);
	bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	return 0;
}

#endif
