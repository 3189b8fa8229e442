// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"maps"
	"slices"

	"github.com/waggle-lb/waggle/control/pools"
)

const (
	kindNode          = "Node"
	kindPod           = "Pod"
	kindService       = "Service"
	kindEndpointSlice = "EndpointSlice"
	kindNamespace     = "Namespace"
)

// hasNamespace reports whether objects of a kind are in a namespace.
func hasNamespace(kind string) bool {
	switch kind {
	case kindNode, kindNamespace, pools.KindCiliumPool, pools.KindCiliumL2Announcement:
		return false
	}
	return true
}

// objectKey identifies an object, wherever it was read.
type objectKey struct {
	kind, namespace, name string
}

func (k objectKey) String() string {
	return k.kind + " " + k.qualifiedName()
}

// qualifiedName is namespace/name, or the name alone where there is no namespace.
func (k objectKey) qualifiedName() string {
	if k.namespace == "" {
		return k.name
	}
	return k.namespace + "/" + k.name
}

func compareKeys(a, b objectKey) int {
	return cmp.Or(
		cmp.Compare(a.kind, b.kind),
		cmp.Compare(a.namespace, b.namespace),
		cmp.Compare(a.name, b.name),
	)
}

// keySet is a set of objects.
type keySet map[objectKey]struct{}

func (s keySet) add(keys ...objectKey) {
	for _, k := range keys {
		s[k] = struct{}{}
	}
}

func (s keySet) has(k objectKey) bool {
	_, ok := s[k]
	return ok
}

// sorted lists the set in the order of kind, namespace and name.
func (s keySet) sorted() []objectKey {
	return slices.SortedFunc(maps.Keys(s), compareKeys)
}
