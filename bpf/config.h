/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_CONFIG_H
#define WAGGLE_CONFIG_H

#include "addr.h"

/*
 * Set once by the loader, before the programs are verified, so that the
 * verifier folds them and prunes what a node does not use.
 * All times are in jiffies, all ports in host byte order.
 */
volatile const __u32 hz = 250;
volatile const __u32 timeout_new = 60 * 250;
volatile const __u32 timeout_tcp = 86400 * 250;
volatile const __u32 timeout_tcp_half_closed = 3600 * 250;
volatile const __u32 timeout_tcp_closed = 60 * 250;
volatile const __u32 timeout_tcp_reset = 10 * 250;
volatile const __u32 timeout_udp = 120 * 250;

volatile const __u16 nodeport_min = 30000;
volatile const __u16 nodeport_max = 32767;
volatile const __u16 snat_min = 49152;
volatile const __u16 snat_max = 65535;

/* SNAT whatever is for a cluster IP. */
volatile const bool masquerade_all = false;
/* Reply to pings of a cluster IP, instead of refusing them. */
volatile const bool answer_ping = false;
/* Leave the sockets of pods alone: the hooks on their devices serve what they send. */
volatile const bool socket_lb_host = false;

/* Whether the kernel has MPTCP, without which it refuses the helper for it. */
volatile const bool kernel_has_mptcp = false;

/*
 * Whether this is the explain twin, which decides and writes nothing: see trace.h.
 * What writes to a map asks it, and the verifier then takes the write away, here
 * or there.
 */
volatile const bool explain = false;

/*
 * Whether to count by service and by backend (stats.h). The explain twin does not, and neither do
 * the programs by which the benchmark measures what that costs.
 */
volatile const bool counting = true;

/* SO_NETNS_COOKIE of the node's own network namespace. */
volatile const __u64 host_netns_cookie = 0;

#endif
