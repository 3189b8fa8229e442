/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_RECORD_H
#define WAGGLE_RECORD_H

#include "addr.h"

/*
 * One idea carries the datapath: tuple -> rewrite. A record holds the complete
 * rewrite of the packets that carry its key, so a backend that leaves its
 * service breaks no flow.
 *
 * A flow has two records, and each can be made from the other: the mirror of
 * (key -> rewrite) is (reversed rewrite -> reversed key). No link is stored,
 * and a half that got lost is made anew from the half that was hit.
 *
 *   express    ingress C>V   -> S>B   both rewritten here, sent by redirect
 *              ingress B>S   -> V>C   likewise
 *   stack      ingress C>V   -> C>B   destination here, the kernel routes
 *              egress  B>C   -> V>C   source here
 *   split      ingress C>V   -> S>B   destination and ports here, routed ...
 *              egress  C>B   -> S>B   ... and the source here: a third record
 *              ingress B>S   -> V>C   sent by redirect: its source is ours by
 *                                     then, and routing would call it martian
 */
enum flow_flags {
	FLOW_REPLY = 1, /* the backend's half */
	FLOW_EXPRESS = 2, /* rewrite all, then transmit without the stack */
	FLOW_SPLIT = 4, /* the client's source is rewritten by a FLOW_EGRESS_HALF */
	FLOW_EGRESS_HALF = 8,
	FLOW_MIRROR_EGRESS = 16, /* the mirror's packets are seen at egress */
	FLOW_XDP = 32, /* XDP may transmit by the next hop */
	FLOW_FOREIGN = 64, /* another translator's: followed, but left to the stack */
	FLOW_DIRECT = 128, /* tc may transmit by the next hop */
};

enum flow_state {
	STATE_ANSWERED = 1, /* the backend has sent something back */
	STATE_CONFIRMED = 2, /* in `flows`: the client has acknowledged that */
	STATE_FIN_CLIENT = 4,
	STATE_FIN_BACKEND = 8,
	STATE_RESET = 16,
};

#define STATE_FINS (STATE_FIN_CLIENT | STATE_FIN_BACKEND)

/* A tuple as seen at one hook direction. Network byte order. */
struct flow_key4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 egress;
	__u16 pad;
};

struct flow_key6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 egress;
	__u16 pad;
};

/* Where a record's packets go, so that the FIB is asked once a flow. */
struct nexthop {
	__u32 epoch; /* good while this is the node's epoch */
	__u32 ifindex;
	__u8 dmac[ETH_ALEN];
	__u8 smac[ETH_ALEN];
};

/* What both families' records begin with. */
struct flow {
	__u32 service; /* id, for counting and display only */
	__u32 backend;
	__u32 last_seen; /* jiffies, the lower half */
	__u32 expect_ack; /* unconfirmed: what acknowledges the SYN-ACK or INIT ACK */
	__u32 state; /* enum flow_state */
	struct nexthop hop;
	__be16 sport; /* the rewrite's ports */
	__be16 dport;
	__u16 flags; /* enum flow_flags */
	__u16 mtu; /* of the next hop, in bytes from the IP header on; 0: not known */
};

struct flow4 {
	struct flow flow;
	__be32 saddr; /* the rewrite's addresses */
	__be32 daddr;
};

struct flow6 {
	struct flow flow;
	__be32 saddr[4];
	__be32 daddr[4];
};

union flow_key {
	struct flow_key4 v4;
	struct flow_key6 v6;
};

union flow_value {
	struct flow flow;
	struct flow4 v4;
	struct flow6 v6;
};

#endif
