//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * The flow tables as text, for who reads a pinned file: one line for each live
 * record. The records themselves are packed for the programs, not for people.
 */

#include <bpf/bpf_tracing.h>
#include "flow.h"

/* As much of the kernel's types as is needed; relocated when it is loaded. */
struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 seq_num;
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

#define COLUMNS                                                                             \
	"PROTOCOL SEEN SOURCE DESTINATION TO-SOURCE TO-DESTINATION WAY STATE IDLE SERVICE " \
	"BACKEND\n"

static const char zone_text[4][8] = { "outside", "pod", "leaving" };
static const char proto_text[4][8] = { "other", "TCP", "UDP", "SCTP" };
static const char way_text[10][16] = {
	"stack",       "stack-reply",  "express", "express-reply", "split",
	"split-reply", "split-source", "foreign", "turn",	   "turn-reply",
};
static const char state_text[6][12] = {
	"new", "answered", "confirmed", "closing", "closed", "reset",
};

static __always_inline const char *proto_name(__u8 proto)
{
	if (proto == IPPROTO_TCP)
		return proto_text[1];
	if (proto == IPPROTO_UDP)
		return proto_text[2];
	return proto == IPPROTO_SCTP ? proto_text[3] : proto_text[0];
}

static __always_inline const char *way_name(__u16 flags)
{
	bool reply = flags & FLOW_REPLY;

	if (flags & FLOW_FOREIGN)
		return way_text[7];
	if (flags & FLOW_SPLIT_SOURCE)
		return way_text[6];
	if (flags & FLOW_SPLIT)
		return reply ? way_text[5] : way_text[4];
	if (flags & FLOW_TURN)
		return reply ? way_text[9] : way_text[8];
	if (flags & FLOW_EXPRESS)
		return reply ? way_text[3] : way_text[2];
	return reply ? way_text[1] : way_text[0];
}

static __always_inline const char *state_name(__u32 tag)
{
	if (tag & STATE_RESET)
		return state_text[5];
	if ((tag & STATE_FINS) == STATE_FINS)
		return state_text[4];
	if (tag & STATE_FINS)
		return state_text[3];
	if (tag & STATE_CONFIRMED)
		return state_text[2];
	return tag & STATE_ANSWERED ? state_text[1] : state_text[0];
}

/* What both families' lines end with. */
static __always_inline void show_rest(struct seq_file *seq, const struct flow *f, __u32 tag)
{
	__u32 idle = (now() - f->last_seen) / hz;

	if ((__s32)(now() - f->last_seen) < 0)
		idle = 0;
	BPF_SEQ_PRINTF(seq, "%s %s %us %u %u\n", way_name(f->flags), state_name(tag), idle,
		       f->service, f->backend);
}

static __noinline int show4(struct seq_file *seq, const struct flow4 *f, __u32 tag)
{
	BPF_SEQ_PRINTF(seq, "%s %s %pI4:%u %pI4:%u %pI4:%u %pI4:%u ", proto_name(f->flow.proto),
		       zone_text[f->flow.zone & 3], &f->saddr, bpf_ntohs(f->flow.sport), &f->daddr,
		       bpf_ntohs(f->flow.dport), &f->to_saddr, bpf_ntohs(f->flow.to_sport),
		       &f->to_daddr, bpf_ntohs(f->flow.to_dport));
	show_rest(seq, &f->flow, tag);
	return 0;
}

static __noinline int show6(struct seq_file *seq, const struct flow6 *f, __u32 tag)
{
	BPF_SEQ_PRINTF(seq, "%s %s [%pI6]:%u [%pI6]:%u [%pI6]:%u [%pI6]:%u ",
		       proto_name(f->flow.proto), zone_text[f->flow.zone & 3], f->saddr,
		       bpf_ntohs(f->flow.sport), f->daddr, bpf_ntohs(f->flow.dport), f->to_saddr,
		       bpf_ntohs(f->flow.to_sport), f->to_daddr, bpf_ntohs(f->flow.to_dport));
	show_rest(seq, &f->flow, tag);
	return 0;
}

static __always_inline void show_columns(const struct bpf_iter__bpf_map_elem *ctx)
{
	if (!ctx->meta->seq_num)
		BPF_SEQ_PRINTF(ctx->meta->seq, COLUMNS);
}

/* The verifier takes the value by constant offsets only: hence loops without an index. */
SEC("iter/bpf_map_elem")
int waggle_show4(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct flow_set4 *set = ctx->value;
	struct flow4 f;
	__u32 tag;
	int way;

	show_columns(ctx);
	if (!set)
		return 0;
#pragma unroll
	for (way = 0; way < WAYS; way++) {
		tag = *(volatile __u32 *)&set->ways.tag[way];
		if ((tag & WAY_MASK) != WAY_LIVE)
			continue;
		f = set->at[way];
		if (!((*(volatile __u32 *)&set->ways.tag[way] ^ tag) & TAG_IDENTITY))
			show4(seq, &f, tag);
	}
	return 0;
}

SEC("iter/bpf_map_elem")
int waggle_show6(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct flow_set6 *set = ctx->value;
	struct flow6 f;
	__u32 tag;
	int way;

	show_columns(ctx);
	if (!set)
		return 0;
#pragma unroll
	for (way = 0; way < WAYS; way++) {
		tag = *(volatile __u32 *)&set->ways.tag[way];
		if ((tag & WAY_MASK) != WAY_LIVE)
			continue;
		f = set->at[way];
		if (!((*(volatile __u32 *)&set->ways.tag[way] ^ tag) & TAG_IDENTITY))
			show6(seq, &f, tag);
	}
	return 0;
}
