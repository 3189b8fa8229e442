/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_TUPLE_H
#define WAGGLE_TUPLE_H

#include "addr.h"

/*
 * The kind of hook where a packet is seen. It is part of a flow's key, so a
 * record applies only where the packets of its flow can come in: what a pod
 * sends under a foreign address meets no record of ZONE_OUTSIDE.
 */
enum zone {
	ZONE_OUTSIDE, /* enters the node from outside, or from a tunnel */
	ZONE_POD, /* enters the node from one of its pods */
	ZONE_LEAVING, /* leaves the node */
};

/* Ports stand at the same place in all transport headers that are parsed. */
struct ports {
	__be16 source;
	__be16 dest;
};

/*
 * Addresses and ports in network byte order. The members from `sport` on are
 * written and compared as one word: a word that was written in pieces makes
 * the processor wait when it is read in one. `pad` is 0.
 */
struct tuple {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto; /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP */
	__u8 zone; /* enum zone */
	__u16 pad;
} __attribute__((aligned(8)));

/*
 * A function off the way of every packet takes the family as a run-time
 * argument. This gives it two values that the verifier distinguishes, so that
 * it follows what belongs to one of them through the whole function.
 */
static __always_inline int family_of(int family)
{
	int known = AF_INET6;

	if (family == AF_INET)
		known = AF_INET;
	asm volatile("" : "+r"(known));
	return known;
}

static __always_inline __u64 tuple_word(const struct tuple *t)
{
	return *(const __u64 *)&t->sport;
}

/* Little endian, as the object file. */
static __always_inline void tuple_set_word(struct tuple *t, __u32 ports, __u8 proto, __u8 zone)
{
	*(__u64 *)&t->sport = ports | (__u64)proto << 32 | (__u64)zone << 40;
}

static __always_inline void tuple_set_sport(struct tuple *t, __be16 port)
{
	/* volatile: the compiler would make it a write of the port alone */
	*(volatile __u64 *)&t->sport = (tuple_word(t) & ~0xffffULL) | port;
}

/* Source and destination port as they stand in a header. */
static __always_inline __u32 tuple_ports(const struct tuple *t)
{
	return *(const __u32 *)&t->sport;
}

static __always_inline void tuple_reverse(int family, const struct tuple *t, enum zone zone,
					  struct tuple *reverse)
{
	__u32 ports = tuple_ports(t);

	addr_copy(family, reverse->saddr.word, t->daddr.word);
	addr_copy(family, reverse->daddr.word, t->saddr.word);
	tuple_set_word(reverse, ports << 16 | ports >> 16, t->proto, zone);
}

#endif
