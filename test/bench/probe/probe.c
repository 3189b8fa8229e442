//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * What the benchmarks measure with, beside the drivers: the limits, which are
 * the least that a program must do to reach the same.
 */

#include "bare.h"
#include "own.h"
#include "../../../bpf/affinity.h"
#include "../../../bpf/hop.h"

/* What the limits rewrite to, and where they transmit. */
struct target {
	struct tuple to;
	struct hop hop;
};

struct target target;

BARE_TABLE(bare_hash, BPF_MAP_TYPE_HASH, 4);
BARE_TABLE(bare_hash, BPF_MAP_TYPE_HASH, 6);
BARE_TABLE(bare_lru, BPF_MAP_TYPE_LRU_HASH, 4);
BARE_TABLE(bare_lru, BPF_MAP_TYPE_LRU_HASH, 6);

struct tally {
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} delivered SEC(".maps");

SEC("xdp")
int drop_xdp(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* What a parser has read must be in memory: the compiler can't leave it out. */
static __always_inline void keep(const struct tuple *t)
{
	asm volatile("" : : "r"(t) : "memory");
}

static __always_inline bool parse_tcp(void *l4, void *end, __s32 len, struct tuple *t)
{
	struct tcphdr *tcp = l4;

	if ((void *)(tcp + 1) > end || len < (__s32)sizeof(*tcp))
		return false;
	t->sport = tcp->source;
	t->dport = tcp->dest;
	return true;
}

static __always_inline bool parse4(void *data, void *end, struct tuple *t)
{
	struct iphdr *ip = data + ETH_HLEN;
	__u32 header;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return false;
	header = ip->ihl * 4;
	if (header < sizeof(*ip) || ip->frag_off & bpf_htons(IP_MORE_OR_OFFSET) ||
	    ip->protocol != IPPROTO_TCP)
		return false;
	t->saddr.word[0] = ip->saddr;
	t->daddr.word[0] = ip->daddr;
	t->proto = ip->protocol;
	return parse_tcp((void *)ip + header, end, bpf_ntohs(ip->tot_len) - header, t);
}

static __always_inline bool parse6(void *data, void *end, struct tuple *t)
{
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_TCP)
		return false;
	addr_copy(AF_INET6, t->saddr.word, ip->saddr.in6_u.u6_addr32);
	addr_copy(AF_INET6, t->daddr.word, ip->daddr.in6_u.u6_addr32);
	t->proto = ip->nexthdr;
	return parse_tcp(ip + 1, end, bpf_ntohs(ip->payload_len), t);
}

/*
 * What must be read and checked before a packet's tuple is known, from the link
 * layer to the ports, and no lookup. It is not the datapath's own parser, so that
 * it stays the same when that changes.
 */
SEC("xdp")
int parse_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct tuple t = {};
	bool ok = false;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		ok = parse4(data, end, &t);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		ok = parse6(data, end, &t);
	if (!ok)
		driven.missed++;
	keep(&t);
	return XDP_PASS;
}

SEC("tc")
int parse_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct tuple t = {};
	bool ok = false;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		ok = parse4(data, end, &t);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		ok = parse6(data, end, &t);
	if (!ok)
		driven.missed++;
	keep(&t);
	return TC_ACT_UNSPEC;
}

/* Limit: one lookup in a table of the kernel's. */
ONE_BARE_KEY(lookup, MISSED_IF(!bpf_map_lookup_elem(BARE_OF(bare_hash, family), &key)))

/* Limit of a packet that belongs to no flow: one lookup, which finds nothing. */
ONE_BARE_KEY(miss, FAILED_IF(bpf_map_lookup_elem(BARE_OF(bare_hash, family), &key)))

/* Puts the packet's key into the table that the limits look into. */
ONE_BARE_KEY(bare_fill, FAILED_IF(bare_put(family, BARE_OF(bare_hash, family), &key, BPF_ANY)))

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
TWO_BARE_KEYS(insert, FAILED_IF(bare_put(family, BARE_OF(bare_lru, family), &key, BPF_NOEXIST)),
	      FAILED_IF(bare_put(family, BARE_OF(bare_lru, family), &key, BPF_ANY)))

/* The established flows that the datapath's table is filled with, one for each packet of a driver. */
struct filling {
	struct tuple to; /* the rewrite of flow 0 */
	__u64 hop;
	/* 1: it is another one for each flow, as that of the driver's packets; 0: all have it */
	__u32 saddr_moves;
	__u32 daddr_moves;
	__u32 sport_moves;
	__u32 dport_moves;
	__u16 flags; /* enum flow_flags */
	__u16 pad[3];
};

struct filling filling;

static __always_inline __be32 further_addr(__be32 addr, __u32 by)
{
	return bpf_htonl(bpf_ntohl(addr) + by);
}

static __always_inline __be16 further_port(__be16 port, __u32 by)
{
	return bpf_htons(bpf_ntohs(port) + by);
}

/* The rewrite of the flow that the packet at hand is of. */
static __always_inline void filling_target(int family, struct tuple *to)
{
	__u32 flow = flow_of(driven.next - 1), last = family == AF_INET ? 0 : 3;
	__u32 addr = flow >> PORT_BITS, port = flow & ((1 << PORT_BITS) - 1);

	*to = filling.to;
	to->saddr.word[last] = further_addr(to->saddr.word[last], addr * filling.saddr_moves);
	to->daddr.word[last] = further_addr(to->daddr.word[last], addr * filling.daddr_moves);
	to->sport = further_port(to->sport, port * filling.sport_moves);
	to->dport = further_port(to->dport, port * filling.dport_moves);
}

/* Records the packet's flow as one that is established. */
static __always_inline int fill(int family, struct xdp_md *ctx)
{
	struct own_memory *m = own_memory();

	if (!m || !tuple_of(family, ctx, &m->entry.key))
		return XDP_ABORTED;
	m->entry.key.zone = filling.to.zone;
	m->entry.record = (struct record){
		.hop = filling.hop,
		.state = STATE_ANSWERED | STATE_CONFIRMED,
		.flags = filling.flags,
		.last_seen = now(),
	};
	filling_target(family, &m->entry.record.to);
	own_replace(family, m);
	return XDP_PASS;
}

BOTH_FAMILIES(fill)

/* Ends both records of the packet's flow: the next ones find the room that it had. */
static __always_inline int end(int family, struct xdp_md *ctx)
{
	struct own_memory *m = own_memory();
	struct entry *e;

	if (!m || !tuple_of(family, ctx, &m->entry.key))
		return XDP_ABORTED;
	e = &m->entry;
	if (!flow_lookup(family, &e->key, &e->record))
		return XDP_PASS;
	if (mirror_lookup(family, &e->key, &e->record, &m->other))
		own_end(family, &m->other);
	own_end(family, e);
	return XDP_PASS;
}

BOTH_FAMILIES(end)

static __always_inline void macs(struct ethhdr *eth, const struct hop *hop)
{
	__builtin_memcpy(eth->h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->smac, ETH_ALEN);
}

/* Limit: the rewrite that a record would ask for, with no lookup and no counter. */
SEC("xdp")
int rewrite_xdp4(struct xdp_md *ctx)
{
	struct frame4 *f = (void *)(long)ctx->data;
	struct tuple t, to = target.to;
	__u64 diff, all;

	if (!tuple4(f, (void *)(long)ctx->data_end, &t) ||
	    (void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
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
	macs(&f->eth, &target.hop);
	return XDP_TX;
}

SEC("xdp")
int rewrite_xdp6(struct xdp_md *ctx)
{
	struct frame6 *f = (void *)(long)ctx->data;
	struct tuple t, to = target.to;
	__u64 diff;

	if (!tuple6(f, (void *)(long)ctx->data_end, &t) ||
	    (void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	diff = csum_addr_diff(AF_INET6, t.saddr.word, to.saddr.word) +
	       csum_addr_diff(AF_INET6, t.daddr.word, to.daddr.word) +
	       csum_u16_diff(t.sport, to.sport) + csum_u16_diff(t.dport, to.dport);
	f->tcp.check = csum_apply(f->tcp.check, diff);
	f->ip.hop_limit--;
	addr_copy(AF_INET6, f->ip.saddr.in6_u.u6_addr32, to.saddr.word);
	addr_copy(AF_INET6, f->ip.daddr.in6_u.u6_addr32, to.daddr.word);
	f->tcp.source = to.sport;
	f->tcp.dest = to.dport;
	macs(&f->eth, &target.hop);
	return XDP_TX;
}

/* Link layer, IP header and ports, each at a multiple of its size. */
struct headers {
	__u16 pad;
	struct ethhdr eth;
	__be32 ip[sizeof(struct ipv6hdr) / 4 + 1];
};

/* The same in tc, where helpers write that know of offloads. */
static __always_inline int rewrite_tc(struct __sk_buff *skb, int family, const struct tuple *t,
				      const struct tuple *to, const struct hop *hop)
{
	struct ports ports = { .source = to->sport, .dest = to->dport };
	__u32 i, size = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __be32 *ip = (void *)(long)skb->data + ETH_HLEN;
	__u64 addrs = csum_addr_diff(family, t->saddr.word, to->saddr.word) +
		      csum_addr_diff(family, t->daddr.word, to->daddr.word);
	__u64 port = csum_u16_diff(t->sport, to->sport) + csum_u16_diff(t->dport, to->dport);
	struct headers h = {};

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
	struct tuple t, to = target.to;

	if (!tuple4((void *)(long)skb->data, (void *)(long)skb->data_end, &t))
		return TC_ACT_SHOT;
	return rewrite_tc(skb, AF_INET, &t, &to, &target.hop);
}

SEC("tc")
int rewrite_tc6(struct __sk_buff *skb)
{
	struct tuple t, to = target.to;

	if (!tuple6((void *)(long)skb->data, (void *)(long)skb->data_end, &t))
		return TC_ACT_SHOT;
	return rewrite_tc(skb, AF_INET6, &t, &to, &target.hop);
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
	    f->tcp.dest != target.to.dport)
		return XDP_PASS;
	tally = bpf_map_lookup_elem(&delivered, &zero);
	if (tally)
		tally->packets++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
