// SPDX-License-Identifier: Apache-2.0

// Package explain says what the datapath would do with a packet or a socket, and why, in words. It asks the explain
// twin of the programs (loader.Twin), which decides on the live maps and changes none; what the twin has noted is
// named by what else the maps and the kernel know.
package explain
