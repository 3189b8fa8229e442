/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_DIRECT_H
#define WAGGLE_DIRECT_H

#include "config.h"
#include "flowtable.h"

/*
 * Datagrams that entered the node lately and were for no service. If a client
 * sends datagrams to an endpoint directly, and also to a service that leads to
 * that endpoint, from one port, the answers to both have one tuple. So a flow to
 * a service gets another source port if the direct datagrams came first.
 *
 * This is a cache: a slot holds the last tuple that hashed to it. What is lost
 * is found when the client sends its next datagram to the endpoint, see
 * choose_beside().
 *
 * Two processors may have the first direct datagram and the first one to the
 * service at the same time. Each writes, then reads what the other writes, with a
 * full barrier in between: the one notes the tuple and looks for the flow's
 * record, the other makes the record and looks for the tuple. One of them finds
 * the other. That there are flows to look for is written before the record is
 * made; so it is read after the note, too. test/model/direct.pml is this as a
 * checker explores it. It leaves out a second datagram to the service at that same
 * time, which may make the record anew: then the client's next datagram to the
 * endpoint finds it.
 */
#define DIRECT_SLOTS 65536

struct direct {
	__u32 tag; /* of the tuple's hash, with its zone */
	__u32 seen; /* jiffies, the lower half */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DIRECT_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct direct);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} directs SEC(".maps");

/*
 * What a client's datagrams are noted by, where they are seen in a zone: the hash of the key that
 * their answers' record would have, which is computed anyway.
 */
static __always_inline __u64 direct_hash(__u64 hash, const struct tuple *answer, enum zone zone)
{
	return hash_in_zone(hash, answer->zone, zone);
}

/*
 * The zone changes bits 0, 1, 15 and 16 of a hash. It is a part of the tag, so that nobody can
 * note a datagram under the address of a client in another zone. It is a part of the index too,
 * so that a datagram that passes hooks of two zones has two slots, in one line of memory.
 */
static __always_inline __u64 *direct_slot(__u64 hash, enum zone zone)
{
	__u32 index = (hash >> 48) ^ zone;

	return bpf_map_lookup_elem(&directs, &index);
}

static __always_inline __u32 direct_tag(__u64 hash)
{
	return hash >> 15;
}

/*
 * Whether a slot has the tuple of the hash, younger than this, in jiffies. Tag and time are read
 * in one access. Another processor may have written a time that is one jiffy later than ours.
 */
static __always_inline bool direct_is(const __u64 *slot, __u64 hash, __u32 age)
{
	__u64 word = *(const volatile __u64 *)slot;
	__u32 seen = word >> 32;

	return (__u32)word == direct_tag(hash) && now() + 1 - seen <= age;
}

/*
 * Notes a datagram that is for no service, before its answers' record is looked for. As
 * one that is a second old is noted again, most datagrams write nothing. Where the processor
 * could read the record before the slot, these need a barrier; the compiler makes it
 * one only if the result is used.
 */
static __always_inline void direct_note(__u64 hash, enum zone zone)
{
	__u64 *slot = direct_slot(hash, zone);

	if (!slot || explain)
		return;
	if (!direct_is(slot, hash, hz))
		__sync_lock_test_and_set(slot, (__u64)now() << 32 | direct_tag(hash));
	else if (weakly_ordered)
		asm volatile("" : : "r"(__sync_fetch_and_add(slot, 0)));
}

/* Whether a client has lately sent datagrams to an endpoint directly, from the given port. */
static __always_inline bool direct_seen(__u64 hash, enum zone zone)
{
	const __u64 *slot = direct_slot(hash, zone);

	return slot && direct_is(slot, hash, timeout_udp);
}

#endif
