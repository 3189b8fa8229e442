/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CRC32C_H
#define WAGGLE_CRC32C_H

#include "packet.h"

/* RFC 9260, appendix A: the polynomial, its bits in the order of the wire. */
#define CRC32C_POLY 0x82f63b78

/* x^(8 * 2^n) modulo the polynomial: what 2^n bytes of zeros do to a remainder. */
static const __u32 crc32c_zeros[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a,
	0xb82be955, 0xb8fdb1e7, 0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a,
	0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* The product of two polynomials; the highest bit is the constant term. */
__noinline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;
	int i;

	for (i = 31; i >= 0; i--) {
		product ^= b & -(a >> i & 1);
		b = (b >> 1) ^ (CRC32C_POLY & -(b & 1));
	}
	return product;
}

/*
 * What a change of an SCTP packet's first four bytes changes of its checksum.
 * A CRC is linear: the difference of two is the remainder of the packets'
 * difference, which is those bytes and zeros, so that nothing else of the
 * packet is read. `len` counts from the SCTP header on.
 */
__noinline __u32 crc32c_diff(__u32 bytes, __u32 len)
{
	__u32 crc = bytes;
	int n;

	for (n = 0; n < 16; n++)
		if (len >> n & 1)
			crc = crc32c_multiply(crc32c_zeros[n], crc);
	return crc;
}

/*
 * The checksum after the ports have changed. One that the sender has left to
 * its device reads 0, and stays so.
 */
static __always_inline __le32 sctp_checksum(__le32 checksum, const struct packet *p,
					    const struct tuple *to, __u32 len)
{
	struct ports diff = {
		.source = p->tuple.sport ^ to->sport,
		.dest = p->tuple.dport ^ to->dport,
	};
	__u32 bytes;

	__builtin_memcpy(&bytes, &diff, sizeof(bytes));
	if (!bytes || !checksum)
		return checksum;
	return checksum ^ crc32c_diff(bytes, len);
}

#endif
