/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_SCRATCH_H
#define WAGGLE_SCRATCH_H

#include "claim.h"
#include "hop.h"
#include "packet.h"
#include "whohas.h"

/* What decides about the way of a new flow. */
struct opening {
	bool pod; /* the client is one of this node's: its packets are the CNI's to see */
	bool internal; /* the client is inside the cluster: the internal scope is in force */
	bool keep_source; /* wherever the backend is */
	bool masquerade; /* the client's address is never kept */
	bool local; /* the backend is on this node */
	bool remembered; /* it was chosen because the client was led there before */
};

/* What an ICMP error is about. */
struct icmp_error {
	struct tuple quoted; /* the packet that the error is about, as it quotes it */
	__u32 inner_off; /* of the quoted IP header */
	__u32 ports_off; /* of the quoted ports */
};

/* What of a packet is rewritten: ports follow the IP header. All lies at multiples of its size. */
struct head {
	__u16 pad;
	struct ethhdr eth;
	__be32 ip[sizeof(struct ipv6hdr) / 4 + 1];
};

/* A source port that a new flow may take over, see open.h. */
struct silent_port {
	__s32 silence; /* of the flow that has it, in jiffies */
	__be16 port;
};

/* Of TCP an error of ours quotes the header, see refuse.h. */
#define QUOTED_TCP 20

/*
 * The packet at hand, and what is known of it: more than fits on the 512 bytes
 * of stack that a program and all that it calls share. Used by the packet
 * programs only: they run with bottom halves off, so none interrupts another
 * on its CPU.
 */
struct scratch {
	struct packet packet;
	__u32 action; /* of the program, if the verdict is not to drop */
	__u32 ifindex; /* of the device that the packet is at */
	struct record record; /* of the packet's flow */
	struct hop hop; /* where it goes */
	struct opening opening; /* while it is opened */
	bool opened; /* the flow, by this packet: to be counted, see count_flow() */
	struct entry mirror; /* the flow's other record */
	__u64 mirror_hash; /* of its key, while the flow is opened */
	struct entry source; /* the third record of a split flow */
	struct entry other; /* another flow's, whose tuple is wanted */
	struct silent_port oldest; /* of those that were looked at */
	struct workspace work;
	struct bpf_fib_lookup fib;
	struct bpf_redir_neigh neighbour; /* that a packet is sent to */
	struct bpf_sock_tuple socket; /* that may own the packet */
	struct head head; /* of the packet as it is rewritten */
	struct icmp_error icmp;
	__u8 quoted[IP_MAX_HEADER + QUOTED_TCP]; /* by an error of ours */
	struct who_has who_has; /* a frame that asks for a MAC, and its answer */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch_map SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_map, &zero);
}

#endif
