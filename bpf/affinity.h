/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_AFFINITY_H
#define WAGGLE_AFFINITY_H

#include "runtime.h"
#include "service.h"
#include "trace.h"

/*
 * Session affinity: the backend that a client was led to last. The key knows
 * nothing of the frontend, so all those of a service port share it.
 */
struct affinity_key {
	__u32 service;
	__be32 addr[4];
};

struct affinity_entry {
	__u32 backend;
	__u32 last_used; /* jiffies, the lower half */
	__be32 addr[4]; /* the backend's: its id may be another's by now */
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity_entry);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} affinity SEC(".maps");

/*
 * The id of one random backend of a scope. 0: the scope is empty; or this program was
 * held up (preempted, as socket hooks can be, or on a stolen CPU) for so long that the
 * slot or the backend are others' by now.
 */
static __always_inline __u32 backend_select(const struct service *svc, const struct scope *scope)
{
	__u32 count = scope->count;
	struct backend *backend;
	__u32 index, *slot, id;

	if (!count)
		return 0;
	index = scope->first + choice_number() % count;
	slot = bpf_map_lookup_elem(&slots, &index);
	id = slot ? *slot : 0;
	backend = backend_get(id);
	return backend && backend->service == svc->id ? id : 0;
}

/* Whether a client may be led to the backend where it was led before. */
static __always_inline bool affinity_holds(const struct service *svc,
					   const struct affinity_entry *known, __u32 id,
					   bool internal)
{
	struct backend *backend;

	if (now() - known->last_used > (__u64)svc->affinity * hz)
		return false;
	backend = backend_get(id);
	return backend && backend_in_scope(backend, svc, internal) &&
	       backend->port == known->port && addr_equal(AF_INET6, backend->addr, known->addr);
}

static __always_inline void affinity_remember(const struct affinity_key *key, __u32 id)
{
	struct backend *backend = backend_get(id);
	struct affinity_entry fresh = {
		.backend = id,
		.last_used = now(),
	};

	if (!backend || explain)
		return;
	addr_copy(AF_INET6, fresh.addr, backend->addr);
	fresh.port = backend->port;
	bpf_map_update_elem(&affinity, key, &fresh, BPF_ANY);
}

/*
 * Chooses the backend of a new flow. Returns its id, or 0 for an empty scope.
 * Affinity is renewed here and nowhere else: it is counted from a client's
 * last new flow. *remembered: whether it has decided.
 */
__noinline int backend_choose(const struct service *svc, const struct addr *client, int family,
			      int internal, bool *remembered)
{
	struct affinity_key key = {};
	struct affinity_entry *known;
	bool holds;
	__u32 id;

	if (!svc || !client || !remembered)
		return 0;
	*remembered = false;
	if (svc->affinity) {
		key.service = svc->id;
		addr_copy(family, key.addr, client->word);
		known = bpf_map_lookup_elem(&affinity, &key);
		/* read once: the element may become another client's meanwhile */
		id = known ? known->backend : 0;
		holds = known && affinity_holds(svc, known, id, internal);
		if (known)
			note_affinity(id, now() - known->last_used, holds);
		if (holds) {
			if (!explain)
				known->last_used = now();
			*remembered = true;
			return id;
		}
	}
	id = backend_select(svc, internal ? &svc->internal : &svc->external);
	if (id && svc->affinity)
		affinity_remember(&key, id);
	return id;
}

#endif
