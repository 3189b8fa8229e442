// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the datapath, compiled, and the Go types of what is in its maps, made from
// the C ones. Addresses and ports in them are in network byte order, in memory order.
package bpf

//go:generate sh generate.sh
