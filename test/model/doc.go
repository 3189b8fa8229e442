// SPDX-License-Identifier: Apache-2.0

// Package model is the datapath as docs/design.md tells it: slow, plain, and with nothing of the
// kernel in it. A node that is told what the maps hold, a packet and a hook give what becomes of
// the packet, and of what the node knows.
//
//	packet.go    what a frame says
//	checksum.go  sums over all of it, never differences
//	config.go    what the agent has written: services, devices, ranges, limits
//	flow.go      tuple -> rewrite
//	hop.go       next hops, which flows share
//	open.go      a new flow: may it, whereto, under which source
//	track.go     an old one: answered, confirmed, closed, halves that got lost
//	node.go      the hooks, from packet to verdict
//	answer.go    what the node says itself
//	icmp.go      errors about translated packets
//
// Where the programs choose at random, the model asks what they chose, judges whether they could,
// and goes on with it.
package model
