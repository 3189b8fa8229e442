/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_ADDR_H
#define WAGGLE_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

/*
 * An address of either family, network byte order; IPv4 lives in word[0] and
 * leaves the others unread. Every function that takes one also takes the
 * family as a constant, which the compiler folds after inlining: one source,
 * two specialised programs.
 */
struct addr {
	__be32 word[4];
};

static __always_inline void addr_copy(int family, __be32 *to, const __be32 *from)
{
	to[0] = from[0];
	if (family == AF_INET)
		return;
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline bool addr_equal(int family, const __be32 *a, const __be32 *b)
{
	if (family == AF_INET)
		return a[0] == b[0];
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

static __always_inline bool addr_is_zero(int family, const __be32 *a)
{
	if (family == AF_INET)
		return !a[0];
	return !(a[0] | a[1] | a[2] | a[3]);
}

/* 127.0.0.0/8 and ::1 */
static __always_inline bool addr_is_loopback(int family, const __be32 *a)
{
	if (family == AF_INET)
		return (a[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !(a[0] | a[1] | a[2]) && a[3] == bpf_htonl(1);
}

/* RFC 1812, 5.3.7 and RFC 4291, 2.7: false for an address that no single host can have. */
static __always_inline bool addr_is_sender(int family, const __be32 *a)
{
	if (addr_is_zero(family, a) || addr_is_loopback(family, a))
		return false;
	if (family == AF_INET)
		return bpf_ntohl(a[0]) < 0xe0000000;
	return bpf_ntohl(a[0]) >> 24 != 0xff;
}

#endif
