// SPDX-License-Identifier: Apache-2.0

// Package deploy tests what is in deploy/ and in a release: that the API would take it, and that
// the agent works with what the files give it and with nothing else.
package deploy
