/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_TRACE_H
#define WAGGLE_TRACE_H

#include "flowtable.h"
#include "service.h"

/*
 * What the explain twin of a program notes of its way to a verdict. The twin is
 * the same object, loaded with `explain` set: it decides as the running programs
 * do, on their maps, and writes to none of them. What it knows in the end it
 * leaves in scratch_map and in `counters`, of which it has its own.
 *
 * Notes are made only where no packet of an established flow comes by, so the
 * running programs pay for none of them there.
 */

enum trace_step {
	TRACE_SERVICE = 1, /* the packet's destination was looked up among the frontends */
	TRACE_FRONTEND = 2, /* and is one: `service` */
	TRACE_ENDED = 4, /* the flow has a record that may not be used: `ended` */
	TRACE_SOCKET = 8, /* a socket of the node has the connection */
	TRACE_AFFINITY = 16, /* the client is remembered: `remembered` */
	TRACE_REMEMBERED = 32, /* and goes where it went before */
	TRACE_RANDOM = 64, /* the choice was random */
	TRACE_FIB = 128, /* the FIB was asked: `fib` and what follows */
	TRACE_CLUSTER = 256, /* the destination was looked up among the cluster IPs */
	TRACE_ICMP = 512, /* an ICMP error, about a packet that could be a flow's */
	TRACE_WHO_HAS =
		1024, /* the address that was asked for was looked up among those announced */
	TRACE_ANNOUNCED = 2048, /* and is one */
	TRACE_LAPSED = 4096, /* but nothing may be answered any more */
};

/*
 * A socket that is asked about: it is bound to an address, or to none (all 0), and
 * connects or sends. Network byte order.
 */
struct socket_question {
	__u64 netns; /* the cookie of its network namespace */
	__be32 source[4];
	__be32 addr[4];
	__be16 port;
	__u8 protocol; /* IPPROTO_* */
	__u8 family; /* AF_INET or AF_INET6 */
	__u32 sends; /* a datagram, and is not connected */
	/* the answer */
	__u32 verdict; /* enum verdict: VERDICT_SOCK_CONNECT or _SENDMSG to the backend */
	__u32 backend; /* id */
};

/* A way that the twin would have taken by now, and for which key: a part of its hash. */
struct taken {
	__u32 where;
	__u32 key;
};

#define TAKEN_MAX 8

struct notes {
	/* set by who asks */
	struct socket_question socket;
	__u32 pick; /* instead of the random number that chooses a backend */
	/* noted */
	__u32 steps; /* enum trace_step */
	__s32 fib; /* BPF_FIB_LKUP_RET_*, or a negative errno */
	__u32 fib_ifindex; /* the device that the route leads to */
	__be32 fib_via[4]; /* the neighbour there */
	__u32 cluster_flags; /* enum cluster_range_flags of the destination */
	__u32 cluster_owner; /* enum cluster_addr; 0: it is no service's */
	__u32 remembered; /* the backend's id */
	__u32 remembered_for; /* jiffies since it was chosen last */
	struct service service;
	struct record ended;
	/* what the next steps have to know, since no map does */
	struct taken taken[TAKEN_MAX];
	__u32 takes;
	__u32 freed[TAKEN_MAX]; /* ways */
	__u32 frees;
};

struct notes trace SEC(".data.trace");

static __always_inline void note(enum trace_step step)
{
	if (explain)
		trace.steps |= step;
}

static __always_inline void note_frontend(const struct service *svc)
{
	if (!explain)
		return;
	trace.steps |= TRACE_SERVICE;
	if (!svc)
		return;
	trace.steps |= TRACE_FRONTEND;
	trace.service = *svc;
}

static __always_inline void note_ended(const struct record *r)
{
	if (!explain)
		return;
	trace.steps |= TRACE_ENDED;
	trace.ended = *r;
}

static __always_inline void note_affinity(__u32 backend, __u32 age, bool holds)
{
	if (!explain)
		return;
	trace.steps |= holds ? TRACE_AFFINITY | TRACE_REMEMBERED : TRACE_AFFINITY;
	trace.remembered = backend;
	trace.remembered_for = age;
}

static __always_inline void note_fib(long ret, const struct bpf_fib_lookup *fib)
{
	if (!explain)
		return;
	trace.steps |= TRACE_FIB;
	trace.fib = ret;
	trace.fib_ifindex = fib->ifindex;
	if (fib->family == AF_INET)
		trace.fib_via[0] = fib->ipv4_dst;
	else
		addr_copy(AF_INET6, trace.fib_via, fib->ipv6_dst);
}

static __always_inline void note_cluster(__u32 flags, __u32 owner)
{
	if (!explain)
		return;
	trace.steps |= TRACE_CLUSTER;
	trace.cluster_flags = flags;
	trace.cluster_owner = owner;
}

static __always_inline void note_taken(__u64 key, __u32 where)
{
	__u32 i = trace.takes;

	if (i >= TAKEN_MAX)
		return;
	trace.taken[i].where = where;
	trace.taken[i].key = key;
	trace.takes = i + 1;
}

static __always_inline bool would_be_taken(__u32 where)
{
	__u32 i;

	for (i = 0; i < TAKEN_MAX && i < trace.takes; i++)
		if (trace.taken[i].where == where)
			return true;
	return false;
}

/* The way that the twin would have taken for a key before. False: none. */
static __always_inline bool taken_for(__u64 key, __u32 *where)
{
	__u32 i;

	for (i = 0; i < TAKEN_MAX && i < trace.takes; i++) {
		if (trace.taken[i].key != (__u32)key)
			continue;
		*where = trace.taken[i].where;
		return true;
	}
	return false;
}

static __always_inline bool would_be_free(__u32 where)
{
	__u32 i;

	for (i = 0; i < TAKEN_MAX && i < trace.frees; i++)
		if (trace.freed[i] == where)
			return true;
	return false;
}

/* The twin would have freed a way. False: it would have done so before. */
__noinline int note_freed(__u32 where)
{
	__u32 i = trace.frees;

	if (i >= TAKEN_MAX || would_be_free(where))
		return false;
	trace.freed[i] = where;
	trace.frees = i + 1;
	return true;
}

/* The number by which a backend is chosen. */
static __always_inline __u32 choice_number(void)
{
	if (!explain)
		return bpf_get_prandom_u32();
	trace.steps |= TRACE_RANDOM;
	return trace.pick;
}

#endif
