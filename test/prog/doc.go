// SPDX-License-Identifier: Apache-2.0

// Package prog tests the packet programs one packet at a time. A packet goes in
// through BPF_PROG_TEST_RUN. The result is compared, byte for byte, with a
// packet that gopacket serialised from the expected fields, with new checksums.
// The datapath's own arithmetic predicts nothing.
//
// Each test has a datapath to itself (possibly an emptied one). All tests share
// one network namespace with routes and permanent neighbours for
// bpf_fib_lookup:
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
