/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_STATS_H
#define WAGGLE_STATS_H

#include "flow.h"
#include "service.h"
#include "verdict.h"

/*
 * Counters by service and by backend.
 *
 * The packet that opens a flow is counted with it. One of an established flow touches no more memory: it is counted
 * in its own record (`traffic`), which it has just read. The sum is folded into the
 * counters of the record's backend once a second while packets come
 * (track_record), when the flow is closed, by the agent's walk when no packet comes
 * (expire.c), and before the record is released or replaced. What is counted and not folded yet is at most a second
 * old while the flow lives and has packets, else as old as the last walk.
 *
 * The addition is not atomic, and does not look at the tag. Normally one processor has
 * all packets of a record. Where two have some at the same instant, or where one has
 * a packet while another folds the record or gives it to another flow, packets are lost, or
 * counted twice, or for the other flow: never more than were counted in that record
 * since its last fold. All other counters are exact: they are added to atomically.
 *
 * An id may be another's by now. A record counts only while its backend's element still has
 * the record's service and endpoint. What flows to another endpoint had is not counted.
 *
 * The agent makes an element, of zeros, when it gives an id away, and removes it when
 * it takes the id back. Programs make none, so an id that is used again begins at zero.
 */
enum direction {
	TO_BACKEND,
	TO_CLIENT,
	DIRECTION_COUNT,
};

struct traffic {
	__u64 packets; /* as the hooks see them: several segments that the kernel has joined are one */
	__u64 bytes; /* from the IP header on */
};

/* What a walk has counted. Void if it is not the last complete one: see struct flow_counters. */
struct active {
	__u32 pass;
	__u32 flows;
};

/*
 * How long a SYN waited for its SYN-ACK, in powers of two: the first bucket ends at so
 * many microseconds, each next one at twice as many, and the last has no end.
 */
#define CONNECT_FIRST 64U
#define CONNECT_BUCKETS 16

struct flow_counters {
	__u64 opened; /* flows, and sockets that were connected to a backend */
	struct traffic traffic[DIRECTION_COUNT];
	/*
	 * Clients' records of flows that are not over, by the walks: pass number N is in
	 * [N & 1]. The last complete pass is in [0] of backend 0.
	 */
	struct active active[2];
	__u64 connect_time; /* microseconds, the sum */
	__u64 connect[CONNECT_BUCKETS];
	__u32 service; /* id, for the agent */
	__u32 pad;
};

/*
 * Added to a service's id, the key of what those of its backends had that are gone. Programs
 * do not count by service: what a service has is the sum over its backends.
 */
#define STATS_GONE (1U << 31)

/* Verdicts from VERDICT_DROP_NO_LOCAL_ENDPOINT to VERDICT_DROP_ERROR. */
#define DROP_COUNT 9

/* What came to no backend. */
struct service_counters {
	__u64 refused;
	__u64 dropped[DROP_COUNT]; /* packets, or sockets' calls */
};

_Static_assert(VERDICT_DROP_NO_LOCAL_ENDPOINT + DROP_COUNT - 1 == VERDICT_DROP_ERROR,
	       "every reason to drop is counted");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct service_counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} service_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct flow_counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} backend_stats SEC(".maps");

static __always_inline struct service_counters *service_stats_of(__u32 id)
{
	return bpf_map_lookup_elem(&service_stats, &id);
}

static __always_inline struct flow_counters *backend_stats_of(__u32 id)
{
	return bpf_map_lookup_elem(&backend_stats, &id);
}

/* A record's word `traffic`: packets above, bytes below. 2^23 packets are folded at once. */
#define TRAFFIC_BYTES 40
#define TRAFFIC_FULL (1ULL << 63)

/* Counts a packet that was rewritten as its record says. */
static __always_inline void flow_count(int family, const struct record *r, __u32 bytes)
{
	struct flow *f = flow_at(family, r->where);
	__u64 traffic;

	if (!f || !counting)
		return;
	traffic = f->traffic + (1ULL << TRAFFIC_BYTES) + bytes;
	f->traffic = traffic;
	if (traffic & TRAFFIC_FULL)
		flow_fold(family, r->where);
}

/* Whether the ids of a record name what they did when its flow was opened. */
static __always_inline bool ids_hold(int family, const struct flow *f)
{
	const struct backend *backend = backend_get(f->backend);
	const struct flow4 *v4 = (const void *)f;
	const struct flow6 *v6 = (const void *)f;
	bool reply = f->flags & FLOW_REPLY;

	if (!f->service || !backend || backend->service != f->service ||
	    backend->port != (reply ? f->sport : f->to_dport))
		return false;
	if (family == AF_INET)
		return backend->addr[0] == (reply ? v4->saddr : v4->to_daddr);
	return addr_equal(family, backend->addr, reply ? v6->saddr : v6->to_daddr);
}

static __always_inline void stats_add(struct flow_counters *stats, enum direction direction,
				      __u64 traffic)
{
	struct traffic *t = &stats->traffic[direction];

	__sync_fetch_and_add(&t->packets, traffic >> TRAFFIC_BYTES);
	__sync_fetch_and_add(&t->bytes, traffic & ((1ULL << TRAFFIC_BYTES) - 1));
}

/*
 * Moves what was counted in a record to its backend. A split flow's packets
 * are counted by the client's record, not by the third one.
 */
__noinline int flow_fold(int family, __u32 where)
{
	struct flow_counters *stats;
	struct flow *f;
	__u64 traffic;

	family = family_of(family);
	f = flow_at(family, where);
	if (!f || !counting || !f->traffic)
		return 0;
	traffic = __sync_lock_test_and_set(&f->traffic, 0);
	if (f->flags & FLOW_SPLIT_SOURCE || !ids_hold(family, f))
		return 0;
	stats = backend_stats_of(f->backend);
	if (stats)
		stats_add(stats, f->flags & FLOW_REPLY ? TO_CLIENT : TO_BACKEND, traffic);
	return 0;
}

/* A flow to a backend was opened, by a packet of so many bytes; or, 0, a socket was connected to it. 0 is no backend. */
__noinline int stats_opened(__u32 backend, __u32 bytes)
{
	struct flow_counters *stats;

	if (!counting || !backend)
		return 0;
	stats = backend_stats_of(backend);
	if (!stats)
		return 0;
	__sync_fetch_and_add(&stats->opened, 1);
	if (bytes)
		stats_add(stats, TO_BACKEND, (1ULL << TRAFFIC_BYTES) + bytes);
	return 0;
}

/* What was for a service was refused or dropped. 0 is no service. */
__noinline int stats_failed(__u32 service, __u32 verdict)
{
	__u32 reason = verdict - VERDICT_DROP_NO_LOCAL_ENDPOINT;
	struct service_counters *s;

	if (!counting || !service)
		return 0;
	s = service_stats_of(service);
	if (!s)
		return 0;
	if (verdict == VERDICT_REFUSED)
		__sync_fetch_and_add(&s->refused, 1);
	else if (reason < DROP_COUNT)
		__sync_fetch_and_add(&s->dropped[reason], 1);
	return 0;
}

/* Microseconds. 0 is no time. */
static __always_inline __u32 stats_clock(void)
{
	__u32 now_us = bpf_ktime_get_ns() / 1000;

	return now_us ? now_us : 1;
}

/* A SYN has opened a flow: its reply's record, at `where`, remembers when. */
static __always_inline void stats_begun(int family, __u32 where)
{
	struct flow *f = flow_at(family, where);

	if (f && counting)
		f->begun = stats_clock();
}

/* The SYN-ACK has come, of which the reply's record is at `where`. */
__noinline int stats_connected(int family, __u32 where)
{
	__u32 begun, waited, bucket = 0;
	struct flow_counters *stats;
	struct flow *f;

	family = family_of(family);
	f = flow_at(family, where);
	if (!f || !counting || !f->begun)
		return 0;
	begun = __sync_lock_test_and_set(&f->begun, 0);
	if (!begun || !ids_hold(family, f))
		return 0;
	waited = stats_clock() - begun;
	while (bucket < CONNECT_BUCKETS - 1 && waited >= CONNECT_FIRST << bucket)
		bucket++;
	stats = backend_stats_of(f->backend);
	if (!stats)
		return 0;
	__sync_fetch_and_add(&stats->connect_time, waited);
	__sync_fetch_and_add(&stats->connect[bucket & (CONNECT_BUCKETS - 1)], 1);
	return 0;
}

/* A walk, of which one runs at a time, has met a flow that is not over, by its client's record. */
__noinline int stats_active(int family, __u32 where, __u32 pass)
{
	struct flow_counters *stats;
	struct active *active;
	struct flow *f;

	family = family_of(family);
	f = flow_at(family, where);
	if (!f || !counting || !ids_hold(family, f))
		return 0;
	stats = backend_stats_of(f->backend);
	if (!stats)
		return 0;
	active = &stats->active[pass & 1];
	if (active->pass != pass) {
		active->flows = 0;
		active->pass = pass;
	}
	active->flows++;
	return 0;
}

#endif
