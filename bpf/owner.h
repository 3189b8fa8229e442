/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_OWNER_H
#define WAGGLE_OWNER_H

#include "config.h"
#include "scratch.h"
#include "trace.h"

/*
 * What the kernel's own tables know of a tuple: the sockets of the node, and the
 * connections that netfilter follows (net/netfilter/nf_conntrack_bpf.c). A kernel
 * without netfilter, or that had not loaded the module when it loaded our programs,
 * lacks the functions: then netfilter knows of no connection.
 */
struct nf_conn {
};

/* As of Linux 5.18. Later ones know by the size that it ends here. */
struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb_ctx,
					 struct bpf_sock_tuple *bpf_tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __weak __ksym;
extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *xdp_ctx, struct bpf_sock_tuple *bpf_tuple,
					 __u32 tuple__sz, struct bpf_ct_opts *opts,
					 __u32 opts__sz) __weak __ksym;
extern void bpf_ct_release(struct nf_conn *nfct) __weak __ksym;

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

/* Whether netfilter follows a connection of which one direction has the tuple. `hook` says what `ctx` is. */
static __always_inline bool conntrack_has(void *ctx, enum hook hook, int family,
					  const struct tuple *t, struct scratch *s)
{
	struct bpf_ct_opts opts = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = t->proto };
	struct nf_conn *entry;
	__u32 size;

	if (!kernel_has_conntrack)
		return false;
	size = socket_tuple(family, t, &s->socket);
	if (hook == HOOK_XDP)
		entry = bpf_xdp_ct_lookup(ctx, &s->socket, size, &opts, sizeof(opts));
	else
		entry = bpf_skb_ct_lookup(ctx, &s->socket, size, &opts, sizeof(opts));
	if (!entry)
		return false;
	bpf_ct_release(entry);
	return true;
}

#endif
