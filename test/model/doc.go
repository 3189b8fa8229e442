// SPDX-License-Identifier: Apache-2.0

// Package model is the datapath of docs/design.md: slow, plain, and independent
// of the kernel. Given the maps' content, a packet and a hook, a Node computes
// the packet's result and its own next state.
//
//	packet.go    parsing
//	checksum.go  sums over all of a packet, never differences
//	config.go    the agent's input: services, devices, ranges, limits
//	flow.go      tuple -> rewrite
//	hop.go       next hops, which flows share
//	open.go      a new flow: whether it may open, its backend, its source
//	track.go     an old flow: answered, confirmed, closed, lost halves
//	node.go      the hooks, from packet to verdict
//	answer.go    packets that the node itself sends
//	icmp.go      errors about translated packets
//
// Where the programs choose at random, the model asks for their choice, checks
// that it is allowed, and continues with it.
package model
