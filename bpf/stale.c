//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * UDP that is led to an endpoint which no longer serves: the client would go
 * on sending there for ever, since it gets no error. The agent runs these
 * when a UDP endpoint has stopped serving. TCP is left alone, its connections
 * end by themselves.
 */

#include "service.h"
#include "walk.h"

/* Of clients' records of UDP flows. */
struct stale_census {
	__u32 kept;
	__u32 released;
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

/* Whether a frontend leads to an endpoint, whichever service has the frontend by now. */
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
static __always_inline bool flow_keeps(int family, const struct tuple *t, const struct record *r)
{
	enum leads leads;

	if (!(r->flags & FLOW_FOREIGN) &&
	    backend_keeps(family, r->backend, r->service, r->to.daddr.word, r->to.dport))
		return true;
	leads = frontend_leads(family, t->daddr.word, t->dport, r->to.daddr.word, r->to.dport);
	return leads == LEADS_THERE || (leads == LEADS_NOWHERE && r->flags & FLOW_FOREIGN);
}

/*
 * Takes the client's record of a flow away. The others stay for their time:
 * answers that are under way shall arrive.
 */
static __always_inline int stale_record(int family, const struct tuple *t, const struct record *r,
					struct stale_census *census)
{
	if (t->proto != IPPROTO_UDP || r->flags & (FLOW_REPLY | FLOW_SPLIT_SOURCE))
		return 0;
	if (t->zone == ZONE_LEAVING) /* the node's own, see own.h: it is no service's */
		return 0;
	if (flow_keeps(family, t, r)) {
		census->kept++;
		return 0;
	}
	if (flow_release(family, t, r->where, r->tag))
		census->released++;
	return 0;
}

__noinline int stale_way(int family, __u32 where, struct stale_census *census, struct entry *e)
{
	if (!census || !e || !flow_read_way(family, where, &e->key, &e->record))
		return 0;
	return stale_record(family_of(family), &e->key, &e->record, census);
}

struct stale_walk {
	struct walk_memory *memory;
	struct stale_census census;
};

static __always_inline long stale_set(int family, __u32 index, const struct flow_ways *set,
				      struct stale_walk *walk)
{
	__u32 way;

	for (way = 0; way < WAYS; way++)
		if ((tag_read(set, way) & WAY_MASK) == WAY_LIVE)
			stale_way(family, index * WAYS + way, &walk->census, &walk->memory->entry);
	return 0;
}

static long stale_set4(void *map, __u32 *index, struct flow_set4 *set, struct stale_walk *walk)
{
	return stale_set(AF_INET, *index, &set->ways, walk);
}

static long stale_set6(void *map, __u32 *index, struct flow_set6 *set, struct stale_walk *walk)
{
	return stale_set(AF_INET6, *index, &set->ways, walk);
}

SEC("syscall")
int waggle_stale4(struct stale_census *ctx)
{
	struct stale_walk walk = { .memory = walk_begin() };

	if (!walk.memory)
		return -EBUSY;
	bpf_for_each_map_elem(&flows4, stale_set4, &walk, 0);
	walk_end(walk.memory);
	*ctx = walk.census;
	return 0;
}

SEC("syscall")
int waggle_stale6(struct stale_census *ctx)
{
	struct stale_walk walk = { .memory = walk_begin() };

	if (!walk.memory)
		return -EBUSY;
	bpf_for_each_map_elem(&flows6, stale_set6, &walk, 0);
	walk_end(walk.memory);
	*ctx = walk.census;
	return 0;
}

/* As much of the kernel's types as is needed; relocated when it is loaded. */
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

/* It may have disconnected since: no hook sees that. */
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
