/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SOURCES_H
#define WAGGLE_SOURCES_H

#include "addr.h"

/*
 * Sets of client addresses: by service id those that may use the service's
 * load balancer addresses, and under LOCAL_SOURCES those of the cluster itself.
 * The prefix counts from the id on, so it is at least 32.
 */
#define LOCAL_SOURCES 0

struct source_key4 {
	__u32 prefixlen;
	__u32 service;
	__be32 addr;
};

struct source_key6 {
	__u32 prefixlen;
	__u32 service;
	__be32 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key4);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} source_ranges4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key6);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} source_ranges6 SEC(".maps");

__noinline int source_in_ranges(__u32 service, const struct addr *addr, int family)
{
	struct source_key6 v6 = { .prefixlen = 32 + 128, .service = service };
	struct source_key4 v4 = { .prefixlen = 32 + 32, .service = service };

	if (!addr)
		return 0;
	if (family == AF_INET) {
		v4.addr = addr->word[0];
		return bpf_map_lookup_elem(&source_ranges4, &v4) != NULL;
	}
	addr_copy(AF_INET6, v6.addr, addr->word);
	return bpf_map_lookup_elem(&source_ranges6, &v6) != NULL;
}

#endif
