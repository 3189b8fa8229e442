//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * cgroup socket hooks: processes on the node are connected to a backend
 * directly, once, with no cost a packet after it. The application goes on
 * seeing the service's address (getpeername, recvmsg).
 */

#include <linux/errno.h>
#include "affinity.h"
#include "cluster.h"
#include "nexthop.h"
#include "sources.h"
#include "stats.h"
#include "trace.h"
#include "watch.h"

#define VERDICT_CONTINUE 1
#define VERDICT_FAIL 0

/* A connected socket's service address, and what it was replaced with. */
struct sock_peer {
	__be32 addr[4];
	__be32 backend_addr[4];
	__be16 port;
	__be16 backend_port;
	__u32 backend;
	__u32 service;
	__u32 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_peer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sock_peers SEC(".maps");

/*
 * The flows of unconnected UDP sockets: (socket, service) -> backend for what
 * is sent, so that a conversation stays with one backend, and (socket,
 * backend) -> service for what is received.
 */
struct sock_flow_key {
	__u64 cookie;
	__be32 addr[4];
	__be16 port;
	__u8 reply;
	__u8 family;
	__u32 pad;
};

struct sock_flow {
	__be32 addr[4];
	__be16 port;
	__u16 pad;
	__u32 backend;
	__u32 service;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct sock_flow_key);
	__type(value, struct sock_flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sock_flows SEC(".maps");

/*
 * The network namespaces of pods, by their cookies, whose packets meet our hook on
 * their device. The agent adds one once the hook is there and the namespace found.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_namespaces SEC(".maps");

/* ::ffff:0:0/96, RFC 4291, 2.5.5.2: an IPv4 destination on an IPv6 socket */
static __always_inline bool is_mapped(const struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

/*
 * The verifier takes a context member only by a constant offset in the
 * instruction; this keeps the compiler from computing its address first.
 */
#define fixed_offset(ctx) asm volatile("" : "+r"(ctx))

static __always_inline void addr_read(const struct bpf_sock_addr *ctx, int family, bool v6_hook,
				      __be32 *addr)
{
	fixed_offset(ctx);
	if (!v6_hook) {
		addr[0] = ctx->user_ip4;
		return;
	}
	if (family == AF_INET) {
		addr[0] = ctx->user_ip6[3];
		return;
	}
	addr[0] = ctx->user_ip6[0];
	addr[1] = ctx->user_ip6[1];
	addr[2] = ctx->user_ip6[2];
	addr[3] = ctx->user_ip6[3];
}

static __always_inline void addr_write(struct bpf_sock_addr *ctx, int family, bool v6_hook,
				       const __be32 *addr, __be16 port)
{
	fixed_offset(ctx);
	ctx->user_port = port;
	if (!v6_hook) {
		ctx->user_ip4 = addr[0];
		return;
	}
	if (family == AF_INET) {
		ctx->user_ip6[3] = addr[0];
		return;
	}
	ctx->user_ip6[0] = addr[0];
	ctx->user_ip6[1] = addr[1];
	ctx->user_ip6[2] = addr[2];
	ctx->user_ip6[3] = addr[3];
}

/* The cookie of the socket's network namespace. There is no socket where one is asked about. */
static __always_inline __u64 sock_netns(struct bpf_sock_addr *ctx)
{
	return explain ? trace.socket.netns : bpf_get_netns_cookie(ctx);
}

/* Whether it is of the node's own namespace, where no packet hook comes after us. */
static __always_inline bool sock_on_host(struct bpf_sock_addr *ctx)
{
	return sock_netns(ctx) == host_netns_cookie;
}

/* Whether we serve it at all. Those of pods may be left to the hooks on their devices. */
static __always_inline bool sock_served(struct bpf_sock_addr *ctx)
{
	return !socket_lb_host || sock_on_host(ctx);
}

/* Whether it is in a pod whose packets meet a hook after us. */
static __always_inline bool sock_has_hook(struct bpf_sock_addr *ctx)
{
	__u64 cookie = sock_netns(ctx);

	return bpf_map_lookup_elem(&pod_namespaces, &cookie);
}

/*
 * Whether the hook on the pod's device serves a socket that connects better: a
 * connected UDP socket would stay with its endpoint when that is gone. Affinity
 * is not divided: a socket's client is the namespace, a packet's is its source.
 */
static __always_inline bool connects_by_packet(struct bpf_sock_addr *ctx, const struct service *svc)
{
	return ctx->protocol == IPPROTO_UDP && !svc->affinity && sock_has_hook(ctx);
}

static __always_inline struct service *sock_service(struct bpf_sock_addr *ctx, int family,
						    const __be32 *addr)
{
	__be16 port = ctx->user_port;
	struct service *svc;
	bool loopback = false;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return NULL;
	if (is_nodeport(port) && addr_is_loopback(family, addr))
		loopback = sock_on_host(ctx);
	svc = service_lookup(family, addr, port, ctx->protocol, loopback);
	note_frontend(svc);
	return svc;
}

/* The address that a socket is bound to; 0 if it has not chosen one. */
static __always_inline void sock_source(struct bpf_sock_addr *ctx, int family, __be32 *addr)
{
	struct bpf_sock *sk = ctx->sk;

	if (sk && family == AF_INET) {
		addr[0] = sk->src_ip4;
	} else if (sk) {
		addr[0] = sk->src_ip6[0];
		addr[1] = sk->src_ip6[1];
		addr[2] = sk->src_ip6[2];
		addr[3] = sk->src_ip6[3];
	}
}

/* The backend that a call is led to, and its service, as far as they are known: ids or 0. */
struct chosen {
	__u32 service;
	__u32 backend;
	bool remembered; /* as in struct opening */
	__u8 pad[3];
};

/*
 * Memory for events of calls. Processes interrupt each other, so none has a place
 * of its CPU's; and the stack has no room. Who sets `busy` has the element.
 */
struct call_buffer {
	struct event event;
	__u64 busy;
};

#define CALL_BUFFERS 256 /* more than calls are interrupted here at one time */
#define CALL_BUFFER_TRIES 16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALL_BUFFERS);
	__type(key, __u32);
	__type(value, struct call_buffer);
} call_buffers SEC(".maps");

static __always_inline struct call_buffer *call_buffer_take(void)
{
	__u32 start = bpf_get_prandom_u32(), index;
	struct call_buffer *b;
	int i;

	for (i = 0; i < CALL_BUFFER_TRIES; i++) {
		index = (start + i) % CALL_BUFFERS;
		b = bpf_map_lookup_elem(&call_buffers, &index);
		if (b && !__sync_val_compare_and_swap(&b->busy, 0, 1))
			return b;
	}
	return NULL;
}

static __always_inline void call_event(struct bpf_sock_addr *ctx, int family, const __be32 *to,
				       const struct chosen *chosen, struct event *e)
{
	struct backend *backend = backend_get(chosen->backend);

	fixed_offset(ctx);
	sock_source(ctx, family, e->tuple.saddr.word);
	addr_copy(family, e->tuple.daddr.word, to);
	e->tuple.dport = ctx->user_port;
	e->tuple.proto = ctx->protocol;
	e->service = chosen->service;
	e->backend = chosen->backend;
	if (chosen->remembered)
		e->flags |= EVENT_AFFINITY;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (!backend || backend->service != chosen->service)
		return;
	e->to.saddr = e->tuple.saddr;
	addr_copy(AF_INET6, e->to.daddr.word, backend->addr);
	e->to.dport = backend->port;
	e->to.proto = e->tuple.proto;
	e->flags |= EVENT_REWRITE;
}

/* Reports a call by which a process connects or sends, before its address is rewritten. */
__noinline int watch_call(struct bpf_sock_addr *ctx, const struct addr *to,
			  const struct chosen *chosen, int family, int verdict)
{
	struct call_buffer *b;
	struct event *e;

	if (!to || !chosen)
		return 0;
	b = call_buffer_take();
	if (!b)
		return watch_lost(verdict);
	e = &b->event;
	__builtin_memset(e, 0, sizeof(*e));
	e->verdict = verdict;
	e->hook = HOOK_SOCK;
	e->family = family;
	if (family == AF_INET)
		call_event(ctx, AF_INET, to->word, chosen, e);
	else
		call_event(ctx, AF_INET6, to->word, chosen, e);
	watch_offer(e);
	*(volatile __u64 *)&b->busy = 0;
	return 0;
}

/* Counts a call and reports it, before its address, `addr`, is rewritten. */
static __always_inline void sock_count(struct bpf_sock_addr *ctx, int family, const __be32 *addr,
				       const struct chosen *chosen, enum verdict verdict)
{
	count(HOOK_SOCK, verdict, 0);
	if (is_watched(verdict))
		watch_call(ctx, (const struct addr *)addr, chosen, family, verdict);
}

/*
 * Ends a call that leads nowhere. VERDICT_NOT_OURS leaves the address as it is:
 * the packets will meet the hook on their pod's device, which knows the rest.
 * What is to be dropped can't be, but it can fail as if it had been.
 */
static __always_inline int sock_end(struct bpf_sock_addr *ctx, int family, const __be32 *addr,
				    const struct chosen *chosen, enum verdict verdict)
{
	if (verdict == VERDICT_NOT_OURS)
		return VERDICT_CONTINUE;
	sock_count(ctx, family, addr, chosen, verdict);
	if (verdict == VERDICT_REFUSED)
		bpf_set_retval(-ECONNREFUSED);
	else if (verdict == VERDICT_DROP_NO_ROUTE)
		bpf_set_retval(-ENETUNREACH);
	else
		bpf_set_retval(-ETIMEDOUT);
	return VERDICT_FAIL;
}

/* The verdict on what is to be dropped: a pod's device does that. */
static __always_inline enum verdict sock_drop(bool host, enum verdict verdict)
{
	return host ? verdict : VERDICT_NOT_OURS;
}

/*
 * The verdict on an address that is no frontend's. `sends`: this call would
 * send something. Programs connect datagram sockets only to learn their own
 * address (RFC 6724 sorting does), and must not get an error for it.
 */
static __always_inline enum verdict sock_cluster(struct bpf_sock_addr *ctx, int family,
						 const __be32 *addr, bool sends)
{
	enum verdict verdict = cluster_verdict(family, addr);
	bool host;

	if (verdict == VERDICT_NOT_OURS)
		return verdict;
	host = sock_on_host(ctx);
	if (verdict == VERDICT_REFUSED && sends)
		return verdict;
	return sock_drop(host, verdict);
}

/* Whether source ranges admit a process of the node: by its address, if it has chosen one. */
static __always_inline bool sock_admitted(struct bpf_sock_addr *ctx, int family,
					  const struct service *svc)
{
	struct addr source = {};
	struct device *node;
	__u32 index = 0;

	sock_source(ctx, family, source.word);
	if (addr_is_zero(family, source.word)) {
		node = bpf_map_lookup_elem(&devices, &index);
		if (!node)
			return false;
		addr_copy(family, source.word, family == AF_INET ? &node->addr4 : node->addr6);
	}
	return source_in_ranges(svc->id, &source, family);
}

struct node_search {
	struct scope scope;
	__u32 start;
	__u32 service;
	__u32 family;
	__u32 found;
};

static long search_on_node(__u32 i, struct node_search *s)
{
	__u32 index, *id;
	struct backend *backend;
	bool here;

	if (!s->scope.count)
		return 1;
	index = s->scope.first + (s->start + i) % s->scope.count;
	id = bpf_map_lookup_elem(&slots, &index);
	backend = id ? backend_get(*id) : NULL;
	if (!backend || backend->service != s->service)
		return 0;
	if (s->family == AF_INET)
		here = node_has_addr(AF_INET, backend->addr);
	else
		here = node_has_addr(AF_INET6, backend->addr);
	if (here)
		s->found = *id;
	return here;
}

/*
 * A backend that a socket bound to the loopback address can reach: one that is the
 * node itself. 0: there is none. The search starts anywhere, to spread the load.
 */
static __always_inline __u32 backend_on_node(int family, const struct service *svc)
{
	struct node_search s = { .scope = svc->internal, .service = svc->id, .family = family };

	if (!s.scope.count)
		return 0;
	s.start = choice_number() % s.scope.count;
	bpf_loop(s.scope.count, search_on_node, &s, 0);
	return s.found;
}

static __always_inline bool bound_to_loopback(struct bpf_sock_addr *ctx, int family)
{
	struct addr source = {};

	sock_source(ctx, family, source.word);
	return addr_is_loopback(family, source.word);
}

/*
 * Chooses a backend. Returns VERDICT_NONE, or why there is
 * none. `connects`: for good, not for one datagram. A socket has no address yet for affinity to go by, so the clients of
 * one namespace count as one. The key is a multicast address, which no packet
 * comes from (RFC 4291, 2.7), that holds the namespace's cookie.
 */
static __always_inline enum verdict sock_choose(struct bpf_sock_addr *ctx, int family,
						const struct service *svc, bool connects,
						struct chosen *c)
{
	__u64 cookie = sock_netns(ctx);
	bool host = cookie == host_netns_cookie;
	struct addr client = {
		.word = { bpf_htonl(0xff000000), 0, (__u32)cookie, cookie >> 32 },
	};

	c->service = svc->id;
	if (masquerade_all && !host && svc->flags & SERVICE_CLUSTER_IP)
		return VERDICT_NOT_OURS;
	if (svc->flags & SERVICE_SOURCE_RANGES) {
		if (!host)
			return VERDICT_NOT_OURS;
		if (!sock_admitted(ctx, family, svc))
			return VERDICT_DROP_SOURCE_RANGE;
	}
	if (connects && svc->internal.count && connects_by_packet(ctx, svc))
		return VERDICT_NOT_OURS;
	if (host && bound_to_loopback(ctx, family)) {
		c->backend = backend_on_node(family, svc);
		if (!c->backend && svc->internal.count)
			return VERDICT_DROP_NO_ROUTE;
	} else {
		c->backend = backend_choose(svc, &client, AF_INET6, true, &c->remembered);
	}
	if (c->backend)
		return VERDICT_NONE;
	if (svc->flags & SERVICE_INTERNAL_DROP)
		return sock_drop(host, VERDICT_DROP_NO_LOCAL_ENDPOINT);
	return VERDICT_REFUSED;
}

/*
 * A socket that connects anew, to what is no service, has no service address.
 * But where our programs sit in two nested cgroups, as they do for an instant
 * when they move, the second sees what the first has written.
 */
static __always_inline void peer_forget(struct bpf_sock_addr *ctx, int family, const __be32 *addr)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_peer *peer;

	if (!sk)
		return;
	peer = bpf_sk_storage_get(&sock_peers, sk, NULL, 0);
	if (!peer || (peer->backend_port == (__be16)ctx->user_port &&
		      addr_equal(family, peer->backend_addr, addr)))
		return;
	bpf_sk_storage_delete(&sock_peers, sk);
}

/*
 * What is remembered for the socket that the application has. An MPTCP socket
 * connects by its first subflow, which is a TCP socket of its own.
 */
static __always_inline struct sock_peer *peer_make(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct mptcp_sock *whole;

	if (!sk)
		return NULL;
	if (kernel_has_mptcp && ctx->protocol == IPPROTO_TCP) {
		whole = bpf_skc_to_mptcp_sock(sk);
		if (whole)
			return bpf_sk_storage_get(&sock_peers, whole, NULL,
						  BPF_SK_STORAGE_GET_F_CREATE);
	}
	return bpf_sk_storage_get(&sock_peers, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline bool peer_remember(struct bpf_sock_addr *ctx, int family, const __be32 *addr,
					  __be16 port, const struct backend *backend, __u32 id)
{
	struct sock_peer *peer = peer_make(ctx);

	if (!peer)
		return false;
	addr_copy(family, peer->addr, addr);
	addr_copy(family, peer->backend_addr, backend->addr);
	peer->port = port;
	peer->backend_port = backend->port;
	peer->backend = id;
	peer->service = backend->service;
	peer->family = family;
	return true;
}

/*
 * The verdict on a socket that connects, or sends a datagram and has no backend yet.
 * VERDICT_NONE: to the backend that is chosen.
 */
static __always_inline enum verdict socket_verdict(struct bpf_sock_addr *ctx, int family,
						   const __be32 *addr, bool connects,
						   struct chosen *chosen)
{
	enum verdict verdict;
	struct service *svc;

	if (!sock_served(ctx))
		return VERDICT_NOT_OURS;
	svc = sock_service(ctx, family, addr);
	if (!svc)
		return sock_cluster(ctx, family, addr, !connects || ctx->protocol == IPPROTO_TCP);
	verdict = sock_choose(ctx, family, svc, connects, chosen);
	if (verdict != VERDICT_NONE && verdict != VERDICT_NOT_OURS)
		stats_failed(svc->id, verdict);
	return verdict;
}

static __always_inline int sock_connect(struct bpf_sock_addr *ctx, int family, bool v6_hook)
{
	struct chosen chosen = {};
	enum verdict verdict;
	struct backend *backend;
	__be32 addr[4] = {};

	addr_read(ctx, family, v6_hook, addr);
	verdict = socket_verdict(ctx, family, addr, true, &chosen);
	if (verdict != VERDICT_NONE) {
		peer_forget(ctx, family, addr);
		return sock_end(ctx, family, addr, &chosen, verdict);
	}
	backend = backend_get(chosen.backend);
	if (!backend)
		return sock_end(ctx, family, addr, &chosen, VERDICT_REFUSED);
	if (!peer_remember(ctx, family, addr, ctx->user_port, backend, chosen.backend)) {
		bpf_set_retval(-ENOMEM);
		return VERDICT_FAIL;
	}
	sock_count(ctx, family, addr, &chosen, VERDICT_SOCK_CONNECT);
	addr_write(ctx, family, v6_hook, backend->addr, backend->port);
	stats_opened(chosen.backend, 0);
	return VERDICT_CONTINUE;
}

static __always_inline void sock_flow_key(struct bpf_sock_addr *ctx, int family, const __be32 *addr,
					  __be16 port, bool reply, struct sock_flow_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->cookie = bpf_get_socket_cookie(ctx);
	addr_copy(family, key->addr, addr);
	key->port = port;
	key->reply = reply;
	key->family = family;
}

/*
 * The backend of a conversation: the one it has, while that serves. NULL:
 * *verdict says why there is none.
 */
static __always_inline struct backend *sock_backend(struct bpf_sock_addr *ctx,
						    const struct service *svc, int family,
						    const struct sock_flow_key *key,
						    enum verdict *verdict, struct chosen *chosen)
{
	struct sock_flow *known = bpf_map_lookup_elem(&sock_flows, key);
	struct sock_flow flow = { .service = svc->id };
	struct backend *backend;

	if (known && known->service == svc->id &&
	    backend_keeps(family, known->backend, svc->id, known->addr, known->port)) {
		chosen->service = svc->id;
		chosen->backend = known->backend;
		return backend_get(chosen->backend);
	}
	*verdict = sock_choose(ctx, family, svc, false, chosen);
	if (*verdict != VERDICT_NONE)
		return NULL;
	*verdict = VERDICT_REFUSED;
	flow.backend = chosen->backend;
	backend = backend_get(flow.backend);
	if (!backend)
		return NULL;
	addr_copy(family, flow.addr, backend->addr);
	flow.port = backend->port;
	bpf_map_update_elem(&sock_flows, key, &flow, BPF_ANY);
	stats_opened(flow.backend, 0);
	return backend;
}

/*
 * What is sent to no service may be for an endpoint that the socket has met by
 * one. From now on answers are that endpoint's own, until it is asked by the
 * service again: an answer does not say which question it is for.
 */
static __always_inline void ask_directly(struct bpf_sock_addr *ctx, int family, const __be32 *addr)
{
	struct sock_flow_key key;

	sock_flow_key(ctx, family, addr, ctx->user_port, true, &key);
	if (bpf_map_lookup_elem(&sock_flows, &key))
		bpf_map_delete_elem(&sock_flows, &key);
}

/*
 * A socket that is connected takes answers from its peer only, so what it sends to
 * a service by name must go where it is connected. Returns false if it is not.
 */
static __always_inline bool send_to_peer(struct bpf_sock_addr *ctx, int family, bool v6_hook,
					 const __be32 *addr)
{
	struct bpf_sock *sk = ctx->sk;
	struct chosen chosen = {};
	struct sock_peer *peer;

	if (!sk || !sk->dst_port)
		return false;
	peer = bpf_sk_storage_get(&sock_peers, sk, NULL, 0);
	if (!peer || peer->port != (__be16)ctx->user_port || !addr_equal(family, peer->addr, addr))
		return sock_has_hook(ctx);
	chosen.service = peer->service;
	chosen.backend = peer->backend;
	sock_count(ctx, family, addr, &chosen, VERDICT_SOCK_SENDMSG);
	addr_write(ctx, family, v6_hook, peer->backend_addr, peer->backend_port);
	return true;
}

static __always_inline int sock_sendmsg(struct bpf_sock_addr *ctx, int family, bool v6_hook)
{
	enum verdict verdict = VERDICT_NOT_OURS;
	struct sock_flow service = {};
	struct chosen chosen = {};
	struct sock_flow_key key;
	struct backend *backend;
	struct service *svc;
	__be32 addr[4] = {};
	__be16 port = ctx->user_port;

	if (!sock_served(ctx))
		return VERDICT_CONTINUE;
	addr_read(ctx, family, v6_hook, addr);
	svc = sock_service(ctx, family, addr);
	if (!svc) {
		ask_directly(ctx, family, addr);
		return sock_end(ctx, family, addr, &chosen, sock_cluster(ctx, family, addr, true));
	}
	if (send_to_peer(ctx, family, v6_hook, addr))
		return VERDICT_CONTINUE;
	sock_flow_key(ctx, family, addr, port, false, &key);
	backend = sock_backend(ctx, svc, family, &key, &verdict, &chosen);
	if (!backend) {
		if (verdict != VERDICT_NOT_OURS)
			stats_failed(svc->id, verdict);
		return sock_end(ctx, family, addr, &chosen, verdict);
	}
	sock_flow_key(ctx, family, backend->addr, backend->port, true, &key);
	addr_copy(family, service.addr, addr);
	service.port = port;
	service.service = svc->id;
	if (bpf_map_update_elem(&sock_flows, &key, &service, BPF_ANY)) {
		bpf_set_retval(-ENOMEM);
		return VERDICT_FAIL;
	}
	sock_count(ctx, family, addr, &chosen, VERDICT_SOCK_SENDMSG);
	addr_write(ctx, family, v6_hook, backend->addr, backend->port);
	return VERDICT_CONTINUE;
}

/* Shows the service where the kernel shows the backend. */
static __always_inline bool show_peer(struct bpf_sock_addr *ctx, int family, bool v6_hook)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_peer *peer;
	__be32 addr[4];

	if (!sk)
		return false;
	peer = bpf_sk_storage_get(&sock_peers, sk, NULL, 0);
	if (!peer)
		return false;
	addr_read(ctx, family, v6_hook, addr);
	if (peer->backend_port != (__be16)ctx->user_port ||
	    !addr_equal(family, peer->backend_addr, addr))
		return false;
	addr_write(ctx, family, v6_hook, peer->addr, peer->port);
	return true;
}

static __always_inline int sock_getpeername(struct bpf_sock_addr *ctx, int family, bool v6_hook)
{
	if (show_peer(ctx, family, v6_hook))
		count(HOOK_SOCK, VERDICT_SOCK_GETPEERNAME, 0);
	return VERDICT_CONTINUE;
}

static __always_inline int sock_recvmsg(struct bpf_sock_addr *ctx, int family, bool v6_hook)
{
	struct sock_flow_key key;
	struct sock_flow *flow;
	__be32 addr[4];

	if (show_peer(ctx, family, v6_hook))
		goto shown;
	addr_read(ctx, family, v6_hook, addr);
	sock_flow_key(ctx, family, addr, ctx->user_port, true, &key);
	flow = bpf_map_lookup_elem(&sock_flows, &key);
	if (!flow)
		return VERDICT_CONTINUE;
	addr_write(ctx, family, v6_hook, flow->addr, flow->port);
shown:
	count(HOOK_SOCK, VERDICT_SOCK_RECVMSG, 0);
	return VERDICT_CONTINUE;
}

SEC("cgroup/connect4")
int waggle_connect4(struct bpf_sock_addr *ctx)
{
	return sock_connect(ctx, AF_INET, false);
}

SEC("cgroup/connect6")
int waggle_connect6(struct bpf_sock_addr *ctx)
{
	if (is_mapped(ctx))
		return sock_connect(ctx, AF_INET, true);
	return sock_connect(ctx, AF_INET6, true);
}

SEC("cgroup/sendmsg4")
int waggle_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sock_sendmsg(ctx, AF_INET, false);
}

SEC("cgroup/sendmsg6")
int waggle_sendmsg6(struct bpf_sock_addr *ctx)
{
	if (is_mapped(ctx))
		return sock_sendmsg(ctx, AF_INET, true);
	return sock_sendmsg(ctx, AF_INET6, true);
}

SEC("cgroup/recvmsg4")
int waggle_recvmsg4(struct bpf_sock_addr *ctx)
{
	return sock_recvmsg(ctx, AF_INET, false);
}

SEC("cgroup/recvmsg6")
int waggle_recvmsg6(struct bpf_sock_addr *ctx)
{
	if (is_mapped(ctx))
		return sock_recvmsg(ctx, AF_INET, true);
	return sock_recvmsg(ctx, AF_INET6, true);
}

SEC("cgroup/getpeername4")
int waggle_getpeername4(struct bpf_sock_addr *ctx)
{
	return sock_getpeername(ctx, AF_INET, false);
}

SEC("cgroup/getpeername6")
int waggle_getpeername6(struct bpf_sock_addr *ctx)
{
	if (is_mapped(ctx))
		return sock_getpeername(ctx, AF_INET, true);
	return sock_getpeername(ctx, AF_INET6, true);
}
