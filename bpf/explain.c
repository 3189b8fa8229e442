//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * Sockets can't be test-run as packets can, so what would become of one that is
 * described is asked of a program: it calls what the hooks in sock.c call. It is
 * loaded as part of the explain twin only, see trace.h. It is of tc's type and
 * reads no packet: programs of the type `syscall` may sleep, and so may not look
 * at source_ranges4 (Linux allows them no tries).
 */

static __always_inline void socket_answer(struct bpf_sock_addr *ctx, int family,
					  struct socket_question *q)
{
	struct chosen chosen = {};
	enum verdict verdict;

	verdict = socket_verdict(ctx, family, q->addr, !q->sends, &chosen);
	q->backend = chosen.backend;
	if (verdict == VERDICT_NONE)
		verdict = q->sends ? VERDICT_SOCK_SENDMSG : VERDICT_SOCK_CONNECT;
	q->verdict = verdict;
}

SEC("tc")
int waggle_explain_socket(struct __sk_buff *skb)
{
	struct socket_question *q = &trace.socket;
	struct bpf_sock sk = { .src_ip4 = q->source[0] };
	struct bpf_sock_addr ctx = { .user_port = q->port, .protocol = q->protocol };

	addr_copy(AF_INET6, sk.src_ip6, q->source);
	ctx.sk = &sk;
	if (q->family == AF_INET)
		socket_answer(&ctx, AF_INET, q);
	else
		socket_answer(&ctx, AF_INET6, q);
	return 0;
}
