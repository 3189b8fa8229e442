// SPDX-License-Identifier: Apache-2.0

// Package loader loads the datapath into the kernel, attaches it, upgrades it in place and takes it
// away again.
//
// What runs does not depend on the process that started it: maps, links and programs are pinned in
// one directory of a bpf file system, and the pins are the only state there is.
//
//	PinDir/maps/<name>       what the programs share, and what survives an upgrade
//	PinDir/links/<hook>-...  what is attached where; removing a pin detaches
//	PinDir/programs/<name>   the programs of the last successful Load, for bpftool's readers
//
// Attaching where an earlier process had attached swaps the program inside the link, so that no
// packet passes without one.
package loader
