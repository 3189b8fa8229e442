// SPDX-License-Identifier: Apache-2.0

// Package hostile does to real agents what enemies and failing machines do: floods of packets
// with forged sources, tables that run full, and faults of all that an agent stands on. Without
// -full its tests are a short slice of that; docs/robustness.md has what came of the whole.
package hostile
