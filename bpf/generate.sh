#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles the datapath and derives its Go types. The compiler is pinned,
# because the committed object must be what CI compiles again.
set -eu
# clang numbers types that it only knows by name by their places in memory, which differ with this variable.
unset SOURCE_DATE_EPOCH
cd "$(dirname "$0")"
exec go tool bpf2go \
	-cc clang-19 -strip llvm-strip-19 -target bpfel \
	-go-package bpf -output-stem waggle -no-global-types \
	-type hook -type verdict -type flow_flags -type flow_tag -type zone -type hop_flags \
	-type service_flags -type backend_flags -type device_flags -type node_addr_flags -type cluster_range_flags -type cluster_addr \
	-type flow -type flow4 -type flow6 -type flow_ways -type flow_set4 -type flow_set6 -type nexthop -type hop \
	-type service_key4 -type service_key6 -type service -type service_name \
	-type backend -type scope -type device -type runtime_state -type counter \
	-type announced_key -type announcement -type affinity_key -type affinity_entry -type source_key4 -type source_key6 \
	-type service_counters -type flow_counters -type traffic -type active -type direction \
	-type cluster_range -type cluster_range_set -type cluster_guard \
	-type adoption -type conversion -type tuple -type census -type stale_census -type notes -type trace_step -type socket_question -type packet -type fragment -type record -type opening -type sock_peer -type sock_flow_key -type sock_flow -type addr \
	-type direct -type watch -type watch_flags -type watch_meter -type watched_key -type watched_kind -type event -type event_flags \
	waggle waggle.c -- \
	-O2 -g -mcpu=v3 -fno-strict-aliasing -Wall -Wextra -Werror \
	-Wno-unused-parameter -Wno-missing-field-initializers \
	-I/usr/include/"$(uname -m)"-linux-gnu
