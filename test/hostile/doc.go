// SPDX-License-Identifier: Apache-2.0

// Package hostile tests real agents against attackers and failing machines: floods of packets with
// forged sources, tables that run full, and faults of all that an agent depends on. Without -full
// its tests are a short version of that; docs/robustness.md has the results of the long one.
package hostile
