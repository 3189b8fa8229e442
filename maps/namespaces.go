// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// PodNamespaces is the set of pods' network namespaces whose packets pass our hook, by their cookies.
type PodNamespaces struct {
	p Provider
}

// NewPodNamespaces opens the set.
func NewPodNamespaces(p Provider) *PodNamespaces { return &PodNamespaces{p} }

// All reads the set.
func (n *PodNamespaces) All() ([]uint64, error) {
	var out []uint64
	err := each(n.p.Map("pod_namespaces"), "pod_namespaces", func(cookie uint64, _ *uint8) { out = append(out, cookie) })
	return out, err
}

// Put adds a namespace.
func (n *PodNamespaces) Put(cookie uint64) error {
	return put(n.p.Map("pod_namespaces"), "pod_namespaces", cookie, uint8(1))
}

// Delete removes a namespace. It returns no error for one that isn't there.
func (n *PodNamespaces) Delete(cookie uint64) error {
	err := n.p.Map("pod_namespaces").Delete(cookie)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("network namespace %d in the map pod_namespaces: %w", cookie, err)
	}
	return nil
}
