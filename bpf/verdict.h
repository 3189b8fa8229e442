/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_VERDICT_H
#define WAGGLE_VERDICT_H

#include "addr.h"

/* Where a decision was made. */
enum hook {
	HOOK_XDP,
	HOOK_TC_INGRESS,
	HOOK_TC_EGRESS,
	HOOK_TC_POD,
	HOOK_SOCK,
	HOOK_COUNT,
};

/*
 * What was decided. One enum for the counters and for everything that shows
 * them; each packet at each hook ends in exactly one of these.
 */
enum verdict {
	/* left to the stack as it came */
	VERDICT_NOT_IP,
	VERDICT_NOT_OURS,
	VERDICT_UNPARSED, /* truncated, malformed, or headers we don't read */
	VERDICT_FRAGMENT,
	VERDICT_VLAN,
	VERDICT_LEFT_TO_TC, /* XDP knows the flow; tc does the work */
	/* rewritten */
	VERDICT_EXPRESS, /* both addresses, sent by the program itself */
	VERDICT_STACK, /* destination (ingress), then routed by the kernel */
	VERDICT_SOURCE, /* source (egress) */
	VERDICT_ICMP_ERROR, /* an ICMP error about a flow, and the packet it quotes */
	/* answered by us */
	VERDICT_REFUSED,
	VERDICT_TOO_BIG, /* for the next hop's MTU */
	VERDICT_ANSWERED, /* a ping */
	VERDICT_ANNOUNCED, /* an ARP request or neighbour solicitation for an announced address */
	/* dropped */
	VERDICT_DROP_NO_LOCAL_ENDPOINT,
	VERDICT_DROP_SNAT_EXHAUSTED,
	VERDICT_DROP_FLOWS_FULL, /* all that is in reach of a new flow in the table is confirmed */
	VERDICT_DROP_NO_FLOW, /* what must not be answered, of no flow that we know */
	VERDICT_DROP_TTL,
	VERDICT_DROP_NO_ROUTE,
	VERDICT_DROP_SOURCE_RANGE,
	VERDICT_DROP_UNALLOCATED, /* a service CIDR's address that no service has */
	VERDICT_DROP_ERROR, /* a helper failed half way */
	/* sockets */
	VERDICT_SOCK_CONNECT,
	VERDICT_SOCK_SENDMSG,
	VERDICT_SOCK_RECVMSG,
	VERDICT_SOCK_GETPEERNAME,
	/* beside a packet's verdict: events */
	VERDICT_FLOW_OPENED,
	VERDICT_FLOW_CONFIRMED,
	VERDICT_FLOW_CLOSED, /* by both sides, or reset */
	VERDICT_COUNT,
	/* nothing is decided yet: the next step does */
	VERDICT_NONE = VERDICT_COUNT,
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_COUNT *VERDICT_COUNT);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

static __always_inline bool is_drop(int verdict)
{
	return verdict >= VERDICT_DROP_NO_LOCAL_ENDPOINT && verdict <= VERDICT_DROP_ERROR;
}

static __always_inline void count(enum hook hook, enum verdict verdict, __u32 bytes)
{
	__u32 index = hook * VERDICT_COUNT + verdict;
	struct counter *c = bpf_map_lookup_elem(&counters, &index);

	if (!c)
		return;
	c->packets++;
	c->bytes += bytes;
}

#endif
