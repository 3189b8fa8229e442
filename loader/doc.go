// SPDX-License-Identifier: Apache-2.0

// Package loader loads the datapath into the kernel, attaches it, upgrades it in place and takes it
// away again.
//
// The datapath does not depend on the process that started it: maps, links and programs are pinned
// in one directory of a bpf file system. The pins are the only state.
//
//	PinDir/maps/<name>       maps that the programs share, and that survive an upgrade
//	PinDir/links/<hook>-...  attachments; removing a pin detaches
//	PinDir/programs/<name>   the programs of the last successful Load, for readers with bpftool
//
// If an earlier process attached a program, the next one swaps the program inside the link, so that
// every packet passes one of them.
package loader
