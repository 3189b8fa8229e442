//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * UDP that is led to an endpoint which no longer serves: the client would go
 * on sending there for ever, since nothing tells it. The agent has these run
 * when a UDP endpoint has stopped serving. TCP is left alone, its connections
 * end by themselves.
 */

#include "flow.h"
#include "service.h"

struct stale_walk {
	struct census census;
	bool confirmed;
};

enum leads {
	LEADS_ELSEWHERE,
	LEADS_THERE,
	LEADS_NOWHERE, /* there is no such frontend */
};

struct search {
	struct addr addr;
	__be16 port;
	__u16 family;
	__u32 service;
	__u32 first; /* slot */
	__u32 found;
};

static long search_slot(__u32 i, struct search *s)
{
	__u32 index = s->first + i, *id = bpf_map_lookup_elem(&slots, &index);

	if (!id)
		return 0;
	if (s->family == AF_INET)
		s->found = backend_keeps(AF_INET, *id, s->service, s->addr.word, s->port);
	else
		s->found = backend_keeps(AF_INET6, *id, s->service, s->addr.word, s->port);
	return s->found;
}

/* Whether a frontend leads to an endpoint, whoever's the frontend is by now. */
static __always_inline enum leads frontend_leads(int family, const __be32 *addr, __be16 port,
						 const __be32 *backend_addr, __be16 backend_port)
{
	struct search s = { .port = backend_port, .family = family };
	const struct service *svc;

	svc = service_lookup(family, addr, port, IPPROTO_UDP, true);
	if (!svc)
		return LEADS_NOWHERE;
	addr_copy(family, s.addr.word, backend_addr);
	s.service = svc->id;
	s.first = svc->external.first;
	bpf_loop(svc->external.count, search_slot, &s, 0);
	if (s.found)
		return LEADS_THERE;
	s.first = svc->internal.first;
	bpf_loop(svc->internal.count, search_slot, &s, 0);
	return s.found ? LEADS_THERE : LEADS_ELSEWHERE;
}

/*
 * A flow stays where it is while its backend does. The same endpoint may have
 * become another backend: services hand their addresses on to others. Of
 * another translator's flow no backend is known.
 */
static __always_inline bool flow_keeps(int family, const struct flow *f, const struct tuple *t)
{
	enum leads leads;
	struct tuple to;

	flow_rewrite(family, f, t, &to);
	if (!(f->flags & FLOW_FOREIGN) &&
	    backend_keeps(family, f->backend, f->service, to.daddr.word, to.dport))
		return true;
	leads = frontend_leads(family, t->daddr.word, t->dport, to.daddr.word, to.dport);
	return leads == LEADS_THERE || (leads == LEADS_NOWHERE && f->flags & FLOW_FOREIGN);
}

/*
 * Takes the client's half of a flow away. The others stay for their time:
 * answers that are under way shall arrive.
 */
static __always_inline long stale_one(int family, const struct flow *f, const struct tuple *t,
				      struct stale_walk *walk)
{
	if (t->proto != IPPROTO_UDP || f->flags & (FLOW_REPLY | FLOW_EGRESS_HALF))
		return 0;
	if (flow_keeps(family, f, t)) {
		walk->census.live++;
		return 0;
	}
	if (walk->confirmed)
		flow_delete(family, true, t);
	else
		flow_delete(family, false, t);
	walk->census.expired++;
	return 0;
}

static long stale_one4(void *map, struct flow_key4 *key, struct flow4 *value,
		       struct stale_walk *walk)
{
	struct tuple t;

	key_tuple4(key, &t);
	return stale_one(AF_INET, &value->flow, &t, walk);
}

static long stale_one6(void *map, struct flow_key6 *key, struct flow6 *value,
		       struct stale_walk *walk)
{
	struct tuple t;

	key_tuple6(key, &t);
	return stale_one(AF_INET6, &value->flow, &t, walk);
}

static long stale_set4(void *map, __u32 *index, struct flow_set4 *set, struct stale_walk *walk)
{
	__u32 way;

	for (way = 0; way < WAYS; way++)
		if (way_holds(set->ways.tag[way]))
			stale_one4(map, &set->at[way].key, &set->at[way].flow, walk);
	return 0;
}

static long stale_set6(void *map, __u32 *index, struct flow_set6 *set, struct stale_walk *walk)
{
	__u32 way;

	for (way = 0; way < WAYS; way++)
		if (way_holds(set->ways.tag[way]))
			stale_one6(map, &set->at[way].key, &set->at[way].flow, walk);
	return 0;
}

SEC("syscall")
int waggle_stale4(struct census *ctx)
{
	struct stale_walk walk = {};

	bpf_for_each_map_elem(&flows_new4, stale_set4, &walk, 0);
	walk.confirmed = true;
	bpf_for_each_map_elem(&flows4, stale_one4, &walk, 0);
	*ctx = walk.census;
	return 0;
}

SEC("syscall")
int waggle_stale6(struct census *ctx)
{
	struct stale_walk walk = {};

	bpf_for_each_map_elem(&flows_new6, stale_set6, &walk, 0);
	walk.confirmed = true;
	bpf_for_each_map_elem(&flows6, stale_one6, &walk, 0);
	*ctx = walk.census;
	return 0;
}

/* As much of the kernel's types as is needed; relocated when it is loaded. */
struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} __attribute__((preserve_access_index));

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	struct in6_addr skc_v6_daddr;
} __attribute__((preserve_access_index));

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* It may have disconnected since, of which no hook tells. */
static __always_inline bool still_connected(const struct sock_common *sk,
					    const struct sock_peer *peer)
{
	if (sk->skc_dport != peer->backend_port)
		return false;
	if (peer->family == AF_INET)
		return sk->skc_daddr == peer->backend_addr[0];
	return sk->skc_v6_daddr.in6_u.u6_addr32[0] == peer->backend_addr[0] &&
	       sk->skc_v6_daddr.in6_u.u6_addr32[1] == peer->backend_addr[1] &&
	       sk->skc_v6_daddr.in6_u.u6_addr32[2] == peer->backend_addr[2] &&
	       sk->skc_v6_daddr.in6_u.u6_addr32[3] == peer->backend_addr[3];
}

static __always_inline bool peer_keeps(int family, const struct sock_peer *peer)
{
	return backend_keeps(family, peer->backend, peer->service, peer->backend_addr,
			     peer->backend_port) ||
	       frontend_leads(family, peer->addr, peer->port, peer->backend_addr,
			      peer->backend_port) == LEADS_THERE;
}

/*
 * Connected sockets were led to their backend once and for all; their
 * applications get ECONNABORTED, and connect anew. Walks one network
 * namespace's, and writes a byte for each that it aborts.
 */
SEC("iter/udp")
int waggle_abort_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sk = (void *)ctx->udp_sk;
	struct sock_peer *peer;
	const char done = '.';
	bool keeps;

	if (!sk)
		return 0;
	peer = bpf_sk_storage_get(&sock_peers, sk, NULL, 0);
	if (!peer || !still_connected(sk, peer))
		return 0;
	if (peer->family == AF_INET)
		keeps = peer_keeps(AF_INET, peer);
	else
		keeps = peer_keeps(AF_INET6, peer);
	if (keeps)
		return 0;
	bpf_sk_storage_delete(&sock_peers, sk);
	if (!bpf_sock_destroy(sk))
		bpf_seq_write(ctx->meta->seq, &done, sizeof(done));
	return 0;
}
