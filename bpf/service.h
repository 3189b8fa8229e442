/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SERVICE_H
#define WAGGLE_SERVICE_H

#include "config.h"
#include "packet.h"

/* A frontend. NodePorts are stored once, under the unspecified address. */
struct service_key4 {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct service_key6 {
	__be32 addr[4];
	__be16 port;
	__u8 proto;
	__u8 pad;
};

/* A block of slots. */
struct scope {
	__u32 first;
	__u32 count;
};

enum service_flags {
	/* endpoints exist, but the policy allows none of them here */
	SERVICE_EXTERNAL_DROP = 1,
	SERVICE_INTERNAL_DROP = 2,
	/* what kind of frontend this is; one of them is set */
	SERVICE_CLUSTER_IP = 4,
	SERVICE_NODE_PORT = 8,
	SERVICE_EXTERNAL_IP = 16,
	SERVICE_LOAD_BALANCER = 32,
	/* the scope is the Local set, not the Cluster set */
	SERVICE_EXTERNAL_LOCAL = 64,
	SERVICE_INTERNAL_LOCAL = 128,
	/* only for the clients in source_ranges */
	SERVICE_SOURCE_RANGES = 256,
};

struct service {
	__u32 id;
	__u32 flags; /* enum service_flags */
	struct scope external; /* for what comes from outside the node */
	struct scope internal; /* for its pods and processes */
	__u32 affinity; /* seconds that a client is remembered for; 0: not at all */
};

enum backend_flags {
	BACKEND_LOCAL = 1, /* on this node */
	BACKEND_IPV6 = 2,
	/* the sets that it is in; new flows are sent to those that are in one */
	BACKEND_IN_CLUSTER_SET = 4,
	BACKEND_IN_LOCAL_SET = 8,
	BACKEND_KEPT = 64, /* in no set any more, but its endpoint serves the flows it has */
};

struct backend {
	__be32 addr[4];
	__u32 service; /* id; 0: this element is free */
	__be16 port;
	__u8 proto;
	__u8 flags; /* enum backend_flags */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key4);
	__type(value, struct service);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} services4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key6);
	__type(value, struct service);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} services6 SEC(".maps");

/* Backend ids, in a contiguous block for each service and scope. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} backends SEC(".maps");

/*
 * Names, for people: the datapath never reads them. They are DNS labels (RFC 1123), and
 * end with a NUL if shorter than that. 8 bytes more would take the kernel's next
 * larger slab, which is twice as large.
 */
struct service_name {
	char namespace[63];
	char name[63];
	char port[63];
	__u8 proto;
	__u8 family; /* 4 or 6 */
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct service_name);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} service_names SEC(".maps");

enum node_addr_flags {
	NODE_ADDR_NODE_PORTS = 1, /* NodePorts answer there */
	NODE_ADDR_LOCAL = 2, /* what is sent there ends on this node */
};

/* The addresses of this node, enum node_addr_flags. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} node_addrs4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct addr);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} node_addrs6 SEC(".maps");

/* 0: not this node's. */
static __always_inline __u8 node_addr_flags(int family, const __be32 *addr)
{
	struct addr key; /* Linux 6.1 takes a key from nowhere but the stack and maps */
	const __u8 *flags;

	if (family == AF_INET) {
		key.word[0] = addr[0];
		flags = bpf_map_lookup_elem(&node_addrs4, &key);
	} else {
		addr_copy(family, key.word, addr);
		flags = bpf_map_lookup_elem(&node_addrs6, &key);
	}
	return flags ? *flags : 0;
}

static __always_inline bool node_has_addr(int family, const __be32 *addr)
{
	return node_addr_flags(family, addr) & NODE_ADDR_LOCAL;
}

static __always_inline struct service *frontend_lookup(int family, const __be32 *addr, __be16 port,
						       __u8 proto)
{
	if (family == AF_INET) {
		struct service_key4 key = {
			.addr = addr[0],
			.port = port,
			.proto = proto,
		};

		return bpf_map_lookup_elem(&services4, &key);
	} else {
		struct service_key6 key = {
			.port = port,
			.proto = proto,
		};

		addr_copy(family, key.addr, addr);
		return bpf_map_lookup_elem(&services6, &key);
	}
}

static __always_inline bool is_nodeport(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return host >= nodeport_min && host <= nodeport_max;
}

/*
 * The frontend at an address, an exact one before the wildcard. `loopback`:
 * NodePorts answer on 127.0.0.1 and ::1, too.
 */
static __always_inline struct service *service_lookup(int family, const __be32 *addr, __be16 port,
						      __u8 proto, bool loopback)
{
	const struct addr any = {};
	struct service *svc = frontend_lookup(family, addr, port, proto);

	if (svc || !is_nodeport(port))
		return svc;
	if (loopback && addr_is_loopback(family, addr))
		return frontend_lookup(family, any.word, port, proto);
	if (!(node_addr_flags(family, addr) & NODE_ADDR_NODE_PORTS))
		return NULL;
	return frontend_lookup(family, any.word, port, proto);
}

static __always_inline struct backend *backend_get(__u32 id)
{
	return bpf_map_lookup_elem(&backends, &id);
}

static __always_inline bool backend_serving(const struct backend *b)
{
	return b->flags & (BACKEND_IN_CLUSTER_SET | BACKEND_IN_LOCAL_SET);
}

/* Whether a backend is one that the scope in force may lead to. */
static __always_inline bool backend_in_scope(const struct backend *b, const struct service *svc,
					     bool internal)
{
	__u32 local = internal ? SERVICE_INTERNAL_LOCAL : SERVICE_EXTERNAL_LOCAL;
	__u8 set = svc->flags & local ? BACKEND_IN_LOCAL_SET : BACKEND_IN_CLUSTER_SET;

	return b->service == svc->id && b->flags & set;
}

/*
 * Whether flows that were led to an endpoint stay there. `id` may be another
 * backend's by now. Policies, topology and termination take an endpoint out of
 * the sets, but only one that no longer serves loses its flows.
 */
static __always_inline bool backend_keeps(int family, __u32 id, __u32 service, const __be32 *addr,
					  __be16 port)
{
	const struct backend *backend = backend_get(id);

	return backend && backend->service == service &&
	       (backend_serving(backend) || backend->flags & BACKEND_KEPT) &&
	       backend->port == port && addr_equal(family, backend->addr, addr);
}

#endif
