/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OWNER_H
#define WAGGLE_OWNER_H

#include "scratch.h"

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
	bool owns;

	if (p->tuple.proto != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return false;
	if (family == AF_INET) {
		t->ipv4.saddr = p->tuple.saddr.word[0];
		t->ipv4.daddr = p->tuple.daddr.word[0];
		t->ipv4.sport = p->tuple.sport;
		t->ipv4.dport = p->tuple.dport;
		sk = bpf_skc_lookup_tcp(ctx, t, sizeof(t->ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		addr_copy(family, t->ipv6.saddr, p->tuple.saddr.word);
		addr_copy(family, t->ipv6.daddr, p->tuple.daddr.word);
		t->ipv6.sport = p->tuple.sport;
		t->ipv6.dport = p->tuple.dport;
		sk = bpf_skc_lookup_tcp(ctx, t, sizeof(t->ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	owns = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return owns;
}

#endif
