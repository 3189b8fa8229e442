// SPDX-License-Identifier: Apache-2.0

// Package explain says what the datapath would do with a packet or a socket, and why, in words. It runs the explain
// twin of the programs (loader.Twin), which decides by the live maps and changes none. It then describes what the
// twin has noted, with names from the maps and the kernel.
package explain
