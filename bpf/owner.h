/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OWNER_H
#define WAGGLE_OWNER_H

#include "config.h"
#include "scratch.h"
#include "trace.h"

/* What the node's sockets know of a tuple. */

/* A tuple as the kernel's functions take it. Returns its size there. */
static __always_inline __u32 socket_tuple(int family, const struct tuple *t,
					  struct bpf_sock_tuple *to)
{
	if (family == AF_INET) {
		to->ipv4.saddr = t->saddr.word[0];
		to->ipv4.daddr = t->daddr.word[0];
		to->ipv4.sport = t->sport;
		to->ipv4.dport = t->dport;
		return sizeof(to->ipv4);
	}
	addr_copy(family, to->ipv6.saddr, t->saddr.word);
	addr_copy(family, to->ipv6.daddr, t->daddr.word);
	to->ipv6.sport = t->sport;
	to->ipv6.dport = t->dport;
	return sizeof(to->ipv6);
}

/*
 * Whether a TCP packet that opens no connection belongs to one of the node's
 * own. One that began before our programs were there has no record (own.h),
 * and may have the port of a frontend.
 */
static __always_inline bool socket_owns(void *ctx, int family, struct scratch *s)
{
	const struct packet *p = &s->packet;
	struct bpf_sock_tuple *t = &s->socket;
	struct bpf_sock *sk;
	__u32 size;
	bool owns;

	if (p->tuple.proto != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return false;
	size = socket_tuple(family, &p->tuple, t);
	sk = bpf_skc_lookup_tcp(ctx, t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	owns = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	if (owns)
		note(TRACE_SOCKET);
	return owns;
}

#endif
