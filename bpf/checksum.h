/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CHECKSUM_H
#define WAGGLE_CHECKSUM_H

#include "packet.h"

/*
 * RFC 1624: a checksum changes by the one's complement sum of ~old + new.
 * The sums are kept in 64 bits, where a dozen words cannot overflow, and
 * folded once.
 */
static __always_inline __u64 csum_addr_diff(int family, const __be32 *old, const __be32 *new)
{
	__u64 sum = (__u64)(__u32)~old[0] + new[0];

	if (family == AF_INET)
		return sum;
	sum += (__u64)(__u32)~old[1] + new[1];
	sum += (__u64)(__u32)~old[2] + new[2];
	return sum + (__u32)~old[3] + new[3];
}

static __always_inline __u64 csum_u16_diff(__u16 old, __u16 new)
{
	return (__u64)(__u16)~old + new;
}

static __always_inline __u32 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline __u16 csum_apply(__u16 check, __u64 diff)
{
	__u64 sum = (__u16)~check + diff;

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
