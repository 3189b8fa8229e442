// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/waggle-lb/waggle/control/pools"
)

// encode writes the objects of documents as a List, which decodeFile reads again.
func encode(documents []document) ([]byte, error) {
	list := struct {
		metav1.TypeMeta `json:",inline"`
		Items           []runtime.Object `json:"items"`
	}{metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, []runtime.Object{}}
	for i := range documents {
		d := &documents[i]
		object, ok := d.object.(runtime.Object)
		if !ok {
			continue // it could not be decoded
		}
		object = object.DeepCopyObject()
		// Items of a list of one kind have no type of their own.
		object.GetObjectKind().SetGroupVersionKind(typeOf(d.key.kind))
		list.Items = append(list.Items, object)
	}
	data, err := json.MarshalIndent(list, "", "  ")
	return append(data, '\n'), err
}

// typeOf returns the type of a kind; the first one, if there are several versions, which have the same
// fields.
func typeOf(kind string) schema.GroupVersionKind {
	if kind == kindEndpointSlice {
		return discovery.SchemeGroupVersion.WithKind(kind)
	}
	for _, k := range pools.Kinds {
		if k.Kind == kind {
			return k.GroupVersionKind
		}
	}
	return v1.SchemeGroupVersion.WithKind(kind)
}
