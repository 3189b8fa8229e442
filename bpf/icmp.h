/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_ICMP_H
#define WAGGLE_ICMP_H

#include "checksum.h"
#include "fragment.h"
#include "scratch.h"

/*
 * ICMP errors quote the packet that they are about, as it was where it failed:
 * translated. They are given to whom the untranslated packet came from, quoting
 * that one. Both follow from one record: the error is about a packet Q, so it
 * travels the way that Q's answer would, and an answer to Q is rewritten by the
 * record of Q reversed. Reversing that rewrite gives Q as its sender knows it.
 *
 * The quoted transport checksum stays: nobody can verify it, what is quoted is
 * cut off.
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
 * Reads what an ICMP error is about into the scratch. False: it is no error, or
 * quotes nothing that we translate.
 */
static __always_inline bool icmp_read(struct __sk_buff *skb, int family, __u32 l3_off,
				      const struct packet *p)
{
	struct scratch *s = scratch();
	struct icmp_header icmp;
	struct icmp_error *e;
	struct ports ports;

	if (!s || !is_icmp(family, p->tuple.proto) ||
	    bpf_skb_load_bytes(skb, p->l4_off, &icmp, sizeof(icmp)) ||
	    !is_icmp_error(family, icmp.type))
		return false;
	e = &s->icmp;
	e->inner_off = p->l4_off + sizeof(icmp);
	if (!(family == AF_INET ? icmp_quoted4(skb, e) : icmp_quoted6(skb, e)))
		return false;
	if (e->ports_off + sizeof(ports) > l3_off + p->len) /* padding is in no checksum */
		return false;
	if (!has_ports(e->quoted.proto) ||
	    bpf_skb_load_bytes(skb, e->ports_off, &ports, sizeof(ports)))
		return false;
	e->quoted.sport = ports.source;
	e->quoted.dport = ports.dest;
	e->quoted.egress = p->tuple.egress;
	tuple_reverse(family, &e->quoted, p->tuple.egress, &e->answer);
	return true;
}

__noinline int icmp_read4(struct __sk_buff *skb, __u32 l3_off, const struct packet *p)
{
	return p ? icmp_read(skb, AF_INET, l3_off, p) : false;
}

__noinline int icmp_read6(struct __sk_buff *skb, __u32 l3_off, const struct packet *p)
{
	return p ? icmp_read(skb, AF_INET6, l3_off, p) : false;
}

static __always_inline struct flow *flow_alive(int family, bool confirmed, const struct tuple *t,
					       union flow_key *key)
{
	struct flow *f = flow_lookup_by(family, confirmed, t, key);

	return f && flow_stale(f, t->proto) && flow_dead(family, confirmed, f, t) ? NULL : f;
}

static __noinline struct flow *flow_any4(const struct tuple *t, union flow_key *key)
{
	struct flow *f = flow_alive(AF_INET, true, t, key);

	return f ? f : flow_alive(AF_INET, false, t, key);
}

static __noinline struct flow *flow_any6(const struct tuple *t, union flow_key *key)
{
	struct flow *f = flow_alive(AF_INET6, true, t, key);

	return f ? f : flow_alive(AF_INET6, false, t, key);
}

static __always_inline struct flow *flow_any(int family, const struct tuple *t, union flow_key *key)
{
	return family == AF_INET ? flow_any4(t, key) : flow_any6(t, key);
}

/*
 * The record of the answer to what the error quotes. A split flow's are not
 * where its errors leave the node:
 *
 * To the client: the kernel couldn't route on what it knew between the two
 * hooks, and quotes it so. The answer is that to the packet as it would have
 * left.
 *
 * To the backend: ingress has translated all but the error's source, which is
 * translated as that of the flow's packets is, by the egress half.
 */
static __always_inline struct flow *icmp_flow(int family, struct icmp_error *e)
{
	struct flow *f = flow_any(family, &e->answer, &e->key);

	if (f || !e->quoted.egress)
		return f;
	f = flow_any(family, &e->quoted, &e->key);
	if (f && f->flags & FLOW_EGRESS_HALF) {
		flow_rewrite(family, f, &e->quoted, &e->to);
		tuple_reverse(family, &e->to, false, &e->answer);
		return flow_any(family, &e->answer, &e->key);
	}
	e->quoted.egress = 0;
	f = flow_any(family, &e->quoted, &e->key);
	if (!f || !(f->flags & FLOW_SPLIT))
		return NULL;
	flow_rewrite(family, f, &e->quoted, &e->to);
	addr_copy(family, e->answer.saddr.word, e->to.daddr.word);
	return flow_any(family, &e->answer, &e->key);
}

/*
 * Stores an address, and returns what that changes in a sum: 32 bits, or
 * STORE_FAILED.
 */
#define STORE_FAILED (1ULL << 32)

static __always_inline __u64 store_addr(struct __sk_buff *skb, int family, __u32 off,
					const struct addr *old, const struct addr *new)
{
	if (bpf_skb_store_bytes(skb, off, new->word, addr_size(family), BPF_F_RECOMPUTE_CSUM))
		return STORE_FAILED;
	return csum_fold32(csum_addr_diff(family, old->word, new->word));
}

__noinline __u64 store_addr4(struct __sk_buff *skb, __u32 off, const struct addr *old,
			     const struct addr *new)
{
	return old && new ? store_addr(skb, AF_INET, off, old, new) : STORE_FAILED;
}

__noinline __u64 store_addr6(struct __sk_buff *skb, __u32 off, const struct addr *old,
			     const struct addr *new)
{
	return old && new ? store_addr(skb, AF_INET6, off, old, new) : STORE_FAILED;
}

/* Stores an address; *diff grows by what that changes in a sum. */
static __always_inline bool replace_addr(struct __sk_buff *skb, int family, __u32 off,
					 const struct addr *old, const struct addr *new,
					 __u64 *diff)
{
	__u64 changed = family == AF_INET ? store_addr4(skb, off, old, new)
					  : store_addr6(skb, off, old, new);

	*diff += changed;
	return changed < STORE_FAILED;
}

/* Applies a sum's difference to a checksum in the packet. */
static __always_inline long store_checksum(struct __sk_buff *skb, __u32 off, __u64 diff)
{
	__u16 check;

	if (bpf_skb_load_bytes(skb, off, &check, sizeof(check)))
		return -1;
	check = csum_apply(check, diff);
	return bpf_skb_store_bytes(skb, off, &check, sizeof(check), BPF_F_RECOMPUTE_CSUM);
}

/*
 * The quoted packet as its sender knows it: e->to reversed. *diff: what that
 * changes in the ICMP message's sum; in IPv4 the addresses and their header's
 * checksum cancel out.
 */
static __always_inline long icmp_rewrite_quoted(struct __sk_buff *skb, int family,
						const struct icmp_error *e, __u64 *diff)
{
	const struct tuple *to = &e->to;
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
 * Translates the error that the scratch holds. Its source changes only where the flow's does: a
 * router's address tells more than ours, but a network that knows the flow by
 * our address need not carry another.
 */
static __always_inline long icmp_rewrite(struct __sk_buff *skb, int family, __u32 l3_off,
					 const struct packet *p, bool source, bool dest)
{
	struct scratch *s = scratch();
	const struct icmp_error *e;
	const struct tuple *to;
	__u32 off = l3_off + saddr_off(family);
	__u64 outer = 0, diff = 0;

	if (!s)
		return -1;
	e = &s->icmp;
	to = &e->to;
	if (icmp_rewrite_quoted(skb, family, e, &diff))
		return -1;
	if (source && !addr_equal(family, to->saddr.word, e->answer.saddr.word) &&
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

__noinline int icmp_rewrite4(struct __sk_buff *skb, __u32 l3_off, const struct packet *p,
			     bool source, bool dest)
{
	return p ? icmp_rewrite(skb, AF_INET, l3_off, p, source, dest) : -1;
}

__noinline int icmp_rewrite6(struct __sk_buff *skb, __u32 l3_off, const struct packet *p,
			     bool source, bool dest)
{
	return p ? icmp_rewrite(skb, AF_INET6, l3_off, p, source, dest) : -1;
}

#endif
