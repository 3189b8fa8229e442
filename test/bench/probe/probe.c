//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * What the benchmarks measure with. A driver makes each packet anew, of
 * another flow than the one before, and calls the program that is measured by
 * a tail call, so that one system call runs it a hundred thousand times. The
 * others are the limits: the least that a program must do to reach the same.
 */

#include "../../../bpf/checksum.h"
#include "../../../bpf/flow.h"
#include "../../../bpf/service.h"
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
	__u32 clock; /* jiffies, as the datapath reads them */
	__u64 missed; /* what the lookups did not find */
	__u64 failed; /* what could not be inserted */
};

struct drive driven;
struct flow4 rewrite4;
struct flow6 rewrite6;

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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key4);
	__type(value, struct flow4);
} bare4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key6);
	__type(value, struct flow6);
} bare6 SEC(".maps");

struct tally {
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} delivered SEC(".maps");

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
	flow = (number * driven.stride) & driven.mask;
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

SEC("xdp")
int drop_xdp(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("tc")
int nothing_tc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("xdp")
int read_clock(struct xdp_md *ctx)
{
	driven.clock = now();
	return XDP_PASS;
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

static __always_inline bool tuple4(void *data, void *end, struct tuple *t)
{
	struct frame4 *f = data;

	if ((void *)(f + 1) > end)
		return false;
	t->saddr.word[0] = f->ip.saddr;
	t->daddr.word[0] = f->ip.daddr;
	t->sport = f->tcp.source;
	t->dport = f->tcp.dest;
	t->proto = f->ip.protocol;
	t->egress = 0;
	return true;
}

static __always_inline bool tuple6(void *data, void *end, struct tuple *t)
{
	struct frame6 *f = data;

	if ((void *)(f + 1) > end)
		return false;
	addr_copy(AF_INET6, t->saddr.word, f->ip.saddr.in6_u.u6_addr32);
	addr_copy(AF_INET6, t->daddr.word, f->ip.daddr.in6_u.u6_addr32);
	t->sport = f->tcp.source;
	t->dport = f->tcp.dest;
	t->proto = f->ip.nexthdr;
	t->egress = 0;
	return true;
}

/* Limit: one lookup in the table of flows. */
SEC("xdp")
int lookup4(struct xdp_md *ctx)
{
	struct tuple t;

	if (!tuple4((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	if (!flow_lookup(AF_INET, true, &t))
		driven.missed++;
	return XDP_PASS;
}

SEC("xdp")
int lookup6(struct xdp_md *ctx)
{
	struct tuple t;

	if (!tuple6((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	if (!flow_lookup(AF_INET6, true, &t))
		driven.missed++;
	return XDP_PASS;
}

/* Limit: what a new flow has to read, the frontend, a slot and the backend in it. */
SEC("xdp")
int choose4(struct xdp_md *ctx)
{
	struct service *svc;
	struct tuple t;

	if (!tuple4((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	svc = frontend_lookup(AF_INET, t.daddr.word, t.dport, t.proto);
	if (!svc || !backend_select(svc, &svc->external))
		driven.missed++;
	return XDP_PASS;
}

/* Limit: two insertions in a hash of the kernel's that evicts. */
SEC("xdp")
int insert4(struct xdp_md *ctx)
{
	struct flow_key4 key;
	struct tuple t, back;

	if (!tuple4((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	tuple_reverse(AF_INET, &t, 0, &back);
	flow_key(AF_INET, &t, (void *)&key);
	if (bpf_map_update_elem(&bare4, &key, &rewrite4, BPF_ANY))
		driven.failed++;
	flow_key(AF_INET, &back, (void *)&key);
	if (bpf_map_update_elem(&bare4, &key, &rewrite4, BPF_NOEXIST))
		driven.failed++;
	return XDP_PASS;
}

SEC("xdp")
int insert6(struct xdp_md *ctx)
{
	union flow_key key;
	struct tuple t, back;

	if (!tuple6((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	tuple_reverse(AF_INET6, &t, 0, &back);
	flow_key(AF_INET6, &t, &key);
	if (bpf_map_update_elem(&bare6, &key, &rewrite6, BPF_ANY))
		driven.failed++;
	flow_key(AF_INET6, &back, &key);
	if (bpf_map_update_elem(&bare6, &key, &rewrite6, BPF_NOEXIST))
		driven.failed++;
	return XDP_PASS;
}

/* The two records that the datapath makes of a new flow, with nothing around them. */
SEC("xdp")
int record4(struct xdp_md *ctx)
{
	struct tuple t, back;
	union flow_key key;

	if (!tuple4((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	tuple_reverse(AF_INET, &t, 0, &back);
	flow_key(AF_INET, &back, &key);
	if (new_flow_put4(&key.v4, &rewrite4, true))
		driven.failed++;
	flow_key(AF_INET, &t, &key);
	if (new_flow_put4(&key.v4, &rewrite4, false))
		driven.failed++;
	return XDP_PASS;
}

SEC("xdp")
int record6(struct xdp_md *ctx)
{
	struct tuple t, back;
	union flow_key key;

	if (!tuple6((void *)(long)ctx->data, (void *)(long)ctx->data_end, &t))
		return XDP_ABORTED;
	tuple_reverse(AF_INET6, &t, 0, &back);
	flow_key(AF_INET6, &back, &key);
	if (new_flow_put6(&key.v6, &rewrite6, true))
		driven.failed++;
	flow_key(AF_INET6, &t, &key);
	if (new_flow_put6(&key.v6, &rewrite6, false))
		driven.failed++;
	return XDP_PASS;
}

static __always_inline void macs(struct ethhdr *eth, const struct nexthop *hop)
{
	__builtin_memcpy(eth->h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->smac, ETH_ALEN);
}

/* Limit: the rewrite that a record would ask for, with no lookup and no counter. */
SEC("xdp")
int rewrite_xdp4(struct xdp_md *ctx)
{
	struct frame4 *f = (void *)(long)ctx->data;
	struct tuple t, to;
	__u64 diff, all;

	if (!tuple4(f, (void *)(long)ctx->data_end, &t) ||
	    (void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	flow_rewrite(AF_INET, &rewrite4.flow, &t, &to);
	diff = csum_addr_diff(AF_INET, t.saddr.word, to.saddr.word) +
	       csum_addr_diff(AF_INET, t.daddr.word, to.daddr.word);
	all = diff + csum_u16_diff(t.sport, to.sport) + csum_u16_diff(t.dport, to.dport);
	if (t.proto == IPPROTO_UDP) {
		struct udphdr *udp = (void *)&f->tcp;

		udp->check = csum_apply(udp->check, all);
	} else {
		f->tcp.check = csum_apply(f->tcp.check, all);
	}
	f->ip.check = csum_apply(f->ip.check, diff + csum_u16_diff(bpf_htons(0x0100), 0));
	f->ip.ttl--;
	f->ip.saddr = to.saddr.word[0];
	f->ip.daddr = to.daddr.word[0];
	f->tcp.source = to.sport;
	f->tcp.dest = to.dport;
	macs(&f->eth, &rewrite4.flow.hop);
	return XDP_TX;
}

SEC("xdp")
int rewrite_xdp6(struct xdp_md *ctx)
{
	struct frame6 *f = (void *)(long)ctx->data;
	struct tuple t, to;
	__u64 diff;

	if (!tuple6(f, (void *)(long)ctx->data_end, &t) ||
	    (void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	flow_rewrite(AF_INET6, &rewrite6.flow, &t, &to);
	diff = csum_addr_diff(AF_INET6, t.saddr.word, to.saddr.word) +
	       csum_addr_diff(AF_INET6, t.daddr.word, to.daddr.word) +
	       csum_u16_diff(t.sport, to.sport) + csum_u16_diff(t.dport, to.dport);
	f->tcp.check = csum_apply(f->tcp.check, diff);
	f->ip.hop_limit--;
	addr_copy(AF_INET6, f->ip.saddr.in6_u.u6_addr32, to.saddr.word);
	addr_copy(AF_INET6, f->ip.daddr.in6_u.u6_addr32, to.daddr.word);
	f->tcp.source = to.sport;
	f->tcp.dest = to.dport;
	macs(&f->eth, &rewrite6.flow.hop);
	return XDP_TX;
}

/* Link layer, IP header and ports, each at a multiple of its size. */
struct head {
	__u16 pad;
	struct ethhdr eth;
	__be32 ip[sizeof(struct ipv6hdr) / 4 + 1];
};

/* The same in tc, where helpers write that know of offloads. */
static __always_inline int rewrite_tc(struct __sk_buff *skb, int family, const struct tuple *t,
				      const struct tuple *to, const struct nexthop *hop)
{
	struct ports ports = { .source = to->sport, .dest = to->dport };
	__u32 i, size = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __be32 *ip = (void *)(long)skb->data + ETH_HLEN;
	__u64 addrs = csum_addr_diff(family, t->saddr.word, to->saddr.word) +
		      csum_addr_diff(family, t->daddr.word, to->daddr.word);
	__u64 port = csum_u16_diff(t->sport, to->sport) + csum_u16_diff(t->dport, to->dport);
	struct head h = {};

	if ((void *)ip + size > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
#pragma unroll
	for (i = 0; i < size / 4; i++)
		h.ip[i] = ip[i];
	if (family == AF_INET) {
		struct iphdr *ip4 = (void *)h.ip;

		ip4->check = csum_apply(ip4->check, addrs + csum_u16_diff(bpf_htons(0x0100), 0));
		ip4->ttl--;
	} else {
		((struct ipv6hdr *)h.ip)->hop_limit--;
	}
	addr_copy(family, h.ip + saddr_off(family) / 4, to->saddr.word);
	addr_copy(family, h.ip + (saddr_off(family) + addr_size(family)) / 4, to->daddr.word);
	__builtin_memcpy(h.ip + size / 4, &ports, sizeof(ports));
	macs(&h.eth, hop);
	h.eth.h_proto = bpf_htons(family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
	bpf_skb_store_bytes(skb, 0, &h.eth, ETH_HLEN + size + sizeof(ports), 0);
	bpf_l4_csum_replace(skb, ETH_HLEN + size + offsetof(struct tcphdr, check), 0,
			    csum_fold32(addrs + port), 0);
	bpf_csum_update(skb, family == AF_INET ? ~csum_fold32(addrs) : 0xfeff);
	return bpf_redirect(hop->ifindex, 0);
}

SEC("tc")
int rewrite_tc4(struct __sk_buff *skb)
{
	struct tuple t, to;

	if (!tuple4((void *)(long)skb->data, (void *)(long)skb->data_end, &t))
		return TC_ACT_SHOT;
	flow_rewrite(AF_INET, &rewrite4.flow, &t, &to);
	return rewrite_tc(skb, AF_INET, &t, &to, &rewrite4.flow.hop);
}

SEC("tc")
int rewrite_tc6(struct __sk_buff *skb)
{
	struct tuple t, to;

	if (!tuple6((void *)(long)skb->data, (void *)(long)skb->data_end, &t))
		return TC_ACT_SHOT;
	flow_rewrite(AF_INET6, &rewrite6.flow, &t, &to);
	return rewrite_tc(skb, AF_INET6, &t, &to, &rewrite6.flow.hop);
}

/*
 * The far end of a node's cable: counts what was sent to a backend's port, by
 * whatever way, and ends it there. All else goes on.
 */
SEC("xdp")
int deliver(struct xdp_md *ctx)
{
	struct frame4 *f = (void *)(long)ctx->data;
	struct tally *tally;
	__u32 zero = 0;

	if ((void *)(f + 1) > (void *)(long)ctx->data_end ||
	    f->eth.h_proto != bpf_htons(ETH_P_IP) || f->ip.protocol != IPPROTO_UDP ||
	    f->tcp.dest != rewrite4.flow.dport)
		return XDP_PASS;
	tally = bpf_map_lookup_elem(&delivered, &zero);
	if (tally)
		tally->packets++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
