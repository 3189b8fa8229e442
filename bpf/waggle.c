//go:build ignore
// SPDX-License-Identifier: GPL-2.0

/*
 * All programs in one object, so that they share their maps by being loaded
 * together. One file per hook; the headers are by concept.
 */

#include "xdp.c"
#include "tc.c"
#include "sock.c"
#include "adopt.c"
#include "convert.c"
#include "expire.c"
#include "explain.c"
#include "show.c"
#include "stale.c"

/* Enums get into the type information, and so into Go, by being used. */
const enum hook *unused_hook __attribute__((unused));
const enum verdict *unused_verdict __attribute__((unused));
const enum flow_flags *unused_flow_flags __attribute__((unused));
const enum flow_tag *unused_flow_tag __attribute__((unused));
const enum zone *unused_zone __attribute__((unused));
const enum hop_flags *unused_hop_flags __attribute__((unused));
const enum service_flags *unused_service_flags __attribute__((unused));
const enum backend_flags *unused_backend_flags __attribute__((unused));
const enum device_flags *unused_device_flags __attribute__((unused));
const enum node_addr_flags *unused_node_addr_flags __attribute__((unused));
const enum cluster_addr *unused_cluster_addr __attribute__((unused));
const enum trace_step *unused_trace_step __attribute__((unused));
const enum fragment *unused_fragment __attribute__((unused));
const enum watch_flags *unused_watch_flags __attribute__((unused));
const enum watched_kind *unused_watched_kind __attribute__((unused));
const enum event_flags *unused_event_flags __attribute__((unused));
const enum direction *unused_direction __attribute__((unused));
const enum cluster_range_flags *unused_cluster_range_flags __attribute__((unused));

char _license[] SEC("license") = "GPL";
