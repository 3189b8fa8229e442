// SPDX-License-Identifier: Apache-2.0

package control

import "runtime/debug"

// giveBackMemory returns to the kernel, after the first sync, what it took to decode and to plan all
// objects at once. Later syncs are of what has changed, and take little.
func giveBackMemory() { go debug.FreeOSMemory() }
