// SPDX-License-Identifier: Apache-2.0

// Package prog tests the packet programs one packet at a time: a packet goes in
// through BPF_PROG_TEST_RUN, and what comes out is compared, byte for byte,
// with a packet that gopacket serialised from what it ought to be, checksums
// summed anew. Nothing of the datapath's own arithmetic is used to predict it.
//
// Each test has a datapath to itself (an emptied one, if there was one before it),
// and shares one network namespace whose routes and permanent neighbours are there for bpf_fib_lookup:
//
//	client 203.0.113.7 -- router -- front --+
//	backend .near 198.51.100.20 -----------/ |
//	backend .far 192.0.2.20 --------- back --+-- the node
//	backend .unready 10.8.0.20 ------ slow --+   transmits by tc only
//	backend .tunnelled 10.9.0.20 -- tunnel --+   not to be transmitted on
//	backend .pod 10.0.0.5 ---------- pod0 ---+   on the node
//
// IPv6 mirrors it. See plan_test.go.
package prog
