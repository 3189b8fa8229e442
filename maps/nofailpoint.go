// SPDX-License-Identifier: Apache-2.0

//go:build !failpoints

package maps

// beforeWrite does nothing; see the build tag failpoints.
func beforeWrite() {}
