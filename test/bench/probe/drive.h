/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_BENCH_DRIVE_H
#define WAGGLE_BENCH_DRIVE_H

/*
 * A driver makes each packet anew, of another flow than the one before, and
 * calls the program that is measured by a tail call, so that one system call
 * runs it a hundred thousand times.
 */

#include "../../../bpf/checksum.h"
#include "../../../bpf/packet.h"
#include <linux/pkt_cls.h>

#define FRAME 96 /* bytes; they hold all headers of both families */
/* A flow's number is split: so many bits count its port, the others its address. */
#define PORT_BITS 14

/* Written by the benchmark before each run. */
struct drive {
	__u64 frame[FRAME / 8];
	__u32 addr_offset; /* of the (last) word of the address that varies */
	__u32 port_offset;
	__u32 ip_check_offset; /* 0: there is none, as in IPv6 */
	__u32 l4_check_offset;
	__u32 addr; /* of flow 0, host byte order */
	__u32 port;
	__u32 mask; /* the number of flows, a power of two, less one */
	__u32 stride; /* odd: how far it is to the next packet's flow */
	__u32 next;
	__u32 client_offset; /* not 0: of a second address, which moves on when all flows have been */
	__u32 client; /* the first of those, host byte order */
	__u32 client_shift; /* log2 of the number of flows */
	__u64 missed; /* what the lookups did not find */
	__u64 failed; /* what could not be inserted */
};

struct drive driven;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured_xdp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured_tc SEC(".maps");

/* The flow of packet number so and so. */
static __always_inline __u32 flow_of(__u32 number)
{
	return (number * driven.stride) & driven.mask;
}

static __always_inline bool next_packet(void *data, void *end)
{
	__be32 *client = data + (driven.client_offset & 63);
	__be32 *addr = data + (driven.addr_offset & 63);
	__be16 *port = data + (driven.port_offset & 63);
	__u16 *l4_check = data + (driven.l4_check_offset & 127);
	__u16 *ip_check = data + (driven.ip_check_offset & 63);
	__u64 *words = data;
	__u32 number, flow;
	__u64 diff;
	int i;

	if (data + FRAME > end || (void *)(client + 1) > end || (void *)(addr + 1) > end ||
	    (void *)(port + 1) > end || (void *)(l4_check + 1) > end ||
	    (void *)(ip_check + 1) > end)
		return false;
#pragma unroll
	for (i = 0; i < FRAME / 8; i++)
		words[i] = driven.frame[i];
	number = driven.next++;
	flow = flow_of(number);
	diff = (__u32) ~*addr;
	*addr = bpf_htonl(driven.addr + (flow >> PORT_BITS));
	diff += *addr;
	if (driven.client_offset) {
		diff += (__u32) ~*client;
		*client = bpf_htonl(driven.client + (number >> driven.client_shift));
		diff += *client;
	}
	if (driven.ip_check_offset)
		*ip_check = csum_apply(*ip_check, diff);
	diff += (__u16) ~*port;
	*port = bpf_htons(driven.port + (flow & ((1 << PORT_BITS) - 1)));
	*l4_check = csum_apply(*l4_check, diff + *port);
	return true;
}

SEC("xdp")
int drive_xdp(struct xdp_md *ctx)
{
	if (next_packet((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		bpf_tail_call(ctx, &measured_xdp, 0);
	return XDP_ABORTED;
}

SEC("tc")
int drive_tc(struct __sk_buff *skb)
{
	if (next_packet((void *)(long)skb->data, (void *)(long)skb->data_end))
		bpf_tail_call(skb, &measured_tc, 0);
	return TC_ACT_SHOT;
}

/* The harness's own cost. */
SEC("xdp")
int nothing_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int nothing_tc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

struct frame4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct frame6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

/* Both ports in one piece, as the datapath writes them into a tuple. */
static __always_inline __u32 ports_at(const void *ports)
{
	return *(const __u32 *)ports;
}

/* What is looked up of a packet. */
static __always_inline bool tuple4(void *data, void *end, struct tuple *t)
{
	struct frame4 *f = data;

	if ((void *)(f + 1) > end)
		return false;
	t->saddr.word[0] = f->ip.saddr;
	t->daddr.word[0] = f->ip.daddr;
	tuple_set_word(t, ports_at(&f->tcp), f->ip.protocol, ZONE_OUTSIDE);
	return true;
}

static __always_inline bool tuple6(void *data, void *end, struct tuple *t)
{
	struct frame6 *f = data;

	if ((void *)(f + 1) > end)
		return false;
	addr_copy(AF_INET6, t->saddr.word, f->ip.saddr.in6_u.u6_addr32);
	addr_copy(AF_INET6, t->daddr.word, f->ip.daddr.in6_u.u6_addr32);
	tuple_set_word(t, ports_at(&f->tcp), f->ip.nexthdr, ZONE_OUTSIDE);
	return true;
}

static __always_inline bool tuple_of(int family, struct xdp_md *ctx, struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return family == AF_INET ? tuple4(data, end, t) : tuple6(data, end, t);
}

/* A run in which one of these counts is an error. */
#define MISSED_IF(condition)             \
	do {                             \
		if (condition)           \
			driven.missed++; \
	} while (0)

#define FAILED_IF(condition)             \
	do {                             \
		if (condition)           \
			driven.failed++; \
	} while (0)

/* One program for each family, of a function that takes it. */
#define BOTH_FAMILIES(name)                         \
	SEC("xdp") int name##4(struct xdp_md * ctx) \
	{                                           \
		return name(AF_INET, ctx);          \
	}                                           \
	SEC("xdp") int name##6(struct xdp_md * ctx) \
	{                                           \
		return name(AF_INET6, ctx);         \
	}

#endif
