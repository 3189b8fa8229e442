/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_EDIT_H
#define WAGGLE_EDIT_H

#include "checksum.h"

/*
 * Edits of a packet in tc. A packet may come with a sum over all of it, made
 * by its device. Each edit keeps that true: by the flag BPF_F_RECOMPUTE_CSUM,
 * or because a checksum in the packet makes up for it.
 */

#define TCP_CHECK_OFF 16
#define UDP_CHECK_OFF 6

/*
 * Whether the sender left the transport checksum to its device: the field
 * then holds the pseudo header's sum, and is completed when the packet leaves,
 * over whatever we have made of it. No helper reports that, but a change not of
 * the pseudo header is applied by bpf_l4_csum_replace in no other case.
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

/*
 * What came with no link layer gets room for one: bpf_redirect_neigh drops a
 * packet without (__bpf_redirect_neigh, net/core/filter.c), and what it puts
 * there is the device's own. It is the last edit: it moves all offsets.
 */
static __always_inline long link_layer_add(struct __sk_buff *skb, __u32 l3_off)
{
	return l3_off ? 0 : bpf_skb_change_head(skb, ETH_HLEN, 0);
}

static __always_inline long swap_addresses(struct __sk_buff *skb, int family, __u32 l3_off,
					   const struct tuple *t)
{
	__u32 off = l3_off + sizeof(struct ipv6hdr) - 2 * sizeof(struct addr);
	struct addr swapped[2];

	if (family == AF_INET) {
		__be32 v4[2] = { t->daddr.word[0], t->saddr.word[0] };

		off = l3_off + offsetof(struct iphdr, saddr);
		return bpf_skb_store_bytes(skb, off, v4, sizeof(v4), 0);
	}
	swapped[0] = t->daddr;
	swapped[1] = t->saddr;
	return bpf_skb_store_bytes(skb, off, swapped, sizeof(swapped), 0);
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

/*
 * Stores an address, and returns what that changes in a sum: 32 bits, or
 * STORE_FAILED.
 */
#define STORE_FAILED (1ULL << 32)

__noinline __u64 store_addr(struct __sk_buff *skb, int family, __u32 off, const struct addr *old,
			    const struct addr *new)
{
	long ret;

	if (!old || !new)
		return STORE_FAILED;
	if (family == AF_INET) {
		ret = bpf_skb_store_bytes(skb, off, new->word, 4, BPF_F_RECOMPUTE_CSUM);
		return ret ? STORE_FAILED
			   : csum_fold32(csum_addr_diff(AF_INET, old->word, new->word));
	}
	ret = bpf_skb_store_bytes(skb, off, new->word, 16, BPF_F_RECOMPUTE_CSUM);
	return ret ? STORE_FAILED : csum_fold32(csum_addr_diff(AF_INET6, old->word, new->word));
}

/* Stores an address; *diff grows by what that changes in a sum. */
static __always_inline bool replace_addr(struct __sk_buff *skb, int family, __u32 off,
					 const struct addr *old, const struct addr *new,
					 __u64 *diff)
{
	__u64 changed = store_addr(skb, family, off, old, new);

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

#endif
