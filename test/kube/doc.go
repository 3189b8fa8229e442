// SPDX-License-Identifier: Apache-2.0

// Package kube tests waggle as the service proxy of a cluster: a real control
// plane ([github.com/waggle-lb/waggle/test/apiserver]), real traffic, and
// kube-proxy of the same release beside it, whose behaviour decides what is
// right. `make test-cluster` runs it; it is skipped where Kubernetes isn't built.
package kube
