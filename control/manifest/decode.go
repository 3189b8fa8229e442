// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// header identifies the object that a document holds.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

type list struct {
	Items []rawJSON `json:"items"`
}

// rawJSON keeps an item undecoded, so that one bad item of a List does not spoil the others.
type rawJSON []byte

func (r *rawJSON) UnmarshalJSON(data []byte) error {
	*r = append((*r)[:0], data...)
	return nil
}

// decodeFile reads all documents of a file. It neither defaults nor validates them.
func decodeFile(path string, data []byte) contents {
	raws, err := split(path, data)
	if err != nil {
		return brokenFile(path, err.number, err.Error())
	}
	c := contents{}
	for _, raw := range raws {
		d := decoder{contents: &c, file: path, number: raw.number}
		d.decode(raw.json, raw.duplicates, "", header{})
	}
	return c
}

func brokenFile(path string, number int, message string) contents {
	return contents{broken: true, problems: []status.Problem{{File: path, Document: number, Message: message}}}
}

// decoder reads one document into the contents of its file.
type decoder struct {
	contents *contents
	file     string
	number   int
}

// decode takes an object, or the items of a List. where is the path of an item in its document;
// inherited is the type of the items according to the type of the list.
func (d *decoder) decode(data []byte, duplicates []string, where string, inherited header) {
	h := inherited
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &h); err != nil {
		d.vague(where+typeErrorPath(data, err), "can't be read: "+typeErrorMessage(err))
		return
	}
	for _, f := range []struct{ name, value string }{{"apiVersion", h.APIVersion}, {"kind", h.Kind}} {
		if f.value == "" {
			d.vague(where+f.name, "Required value")
			return
		}
	}
	if items, ok := listOf(h); ok {
		d.decodeList(data, duplicates, where, items)
		return
	}
	object, ok := newObject(h)
	if !ok {
		d.passOver(h, where)
		return
	}
	if h.Metadata.Name == "" {
		d.vague(where+"metadata.name", fmt.Sprintf("Required value: %s without a name", h.Kind))
		return
	}
	d.add(h, object, data, within(duplicates, where))
}

func (d *decoder) decodeList(data []byte, duplicates []string, where string, items header) {
	var l list
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &l); err != nil {
		d.vague(where+typeErrorPath(data, err), "can't be read: "+typeErrorMessage(err))
		return
	}
	if slices.Contains(duplicates, where+"items") {
		d.vague(where+"items", "duplicate field")
		return
	}
	for i, item := range l.Items {
		d.decode(item, duplicates, fmt.Sprintf("%sitems[%d].", where, i), items)
	}
}

// add decodes an object whose identity is known.
func (d *decoder) add(h header, object metav1.Object, data []byte, duplicates []string) {
	doc := document{key: keyOf(h), file: d.file, number: d.number, object: object}
	strict, err := kjson.UnmarshalStrict(data, object, kjson.DisallowUnknownFields)
	if err != nil {
		doc.object = nil
		doc.unsound = append(doc.unsound, doc.fault(typeErrorPath(data, err), "can't be read: "+typeErrorMessage(err)))
	}
	for _, e := range strict {
		doc.unsound = append(doc.unsound, doc.fault(strictField(e), "unknown field"))
	}
	for _, path := range duplicates {
		doc.unsound = append(doc.unsound, doc.fault(path, "duplicate field"))
	}
	if doc.object != nil {
		object.SetNamespace(doc.key.namespace)
	}
	d.contents.documents = append(d.contents.documents, doc)
}

func (d *decoder) vague(field, message string) {
	d.contents.vague = true
	d.contents.problems = append(d.contents.problems, status.Problem{
		File: d.file, Document: d.number, Field: field, Message: message,
	})
}

// passOver skips a kind that waggle does not read, and reports one that looks like a misspelt kind of ours.
func (d *decoder) passOver(h header, where string) {
	if want, ok := misspelt(h); ok {
		if want.Kind != h.Kind {
			d.vague(where+"kind", fmt.Sprintf("Unsupported value: %q: is %s meant?", h.Kind, want.Kind))
		} else {
			d.vague(where+"apiVersion", fmt.Sprintf("Unsupported value: %q: supported values: %q", h.APIVersion, want.APIVersion))
		}
		return
	}
	d.contents.ignored = append(d.contents.ignored, h.APIVersion+" "+h.Kind)
}

// misspelt returns the kind of ours, or the list, that another spelling or version probably means.
// It looks only at the API groups of our kinds: other groups may have a Service, too.
func misspelt(h header) (want header, ok bool) {
	known := ours
	group, _, grouped := strings.Cut(h.APIVersion, "/")
	if grouped && strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io") {
		known = oursIn(group)
	}
	kind, suffix := h.Kind, ""
	if n := len(kind) - len(listSuffix); n > 0 && strings.EqualFold(kind[n:], listSuffix) {
		kind, suffix = kind[:n], listSuffix
	}
	for _, k := range known {
		if strings.EqualFold(kind, k.Kind) {
			k.Kind += suffix
			return k, true
		}
	}
	return header{}, false
}

// ours are the kinds that the source reads.
var ours = []header{
	{APIVersion: "v1", Kind: kindService},
	{APIVersion: "v1", Kind: kindPod},
	{APIVersion: "v1", Kind: kindNode},
	{APIVersion: "v1", Kind: kindNamespace},
	{APIVersion: discovery.SchemeGroupVersion.String(), Kind: kindEndpointSlice},
	{APIVersion: "v1", Kind: listSuffix},
}

// oursIn returns the kinds that the source reads of an API group that is not Kubernetes' own.
func oursIn(group string) []header {
	var all []header
	for _, kind := range pools.Kinds {
		if kind.Group == group {
			all = append(all, header{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind})
		}
	}
	return all
}

const listSuffix = "List"

// newObject makes an empty object of one of our kinds.
func newObject(h header) (metav1.Object, bool) {
	switch h.APIVersion + " " + h.Kind {
	case "v1 " + kindService:
		return &v1.Service{}, true
	case "v1 " + kindPod:
		return &v1.Pod{}, true
	case "v1 " + kindNode:
		return &v1.Node{}, true
	case "v1 " + kindNamespace:
		return &v1.Namespace{}, true
	case discovery.SchemeGroupVersion.String() + " " + kindEndpointSlice:
		return &discovery.EndpointSlice{}, true
	}
	if kind, ok := pools.KindOf(h.APIVersion, h.Kind); ok {
		return kind.New(), true
	}
	return nil, false
}

// listOf reports whether this is a List, or a list of one of our kinds, whose items may lack a
// kind.
func listOf(h header) (items header, ok bool) {
	if h.APIVersion == "v1" && h.Kind == listSuffix {
		return header{}, true
	}
	kind, isList := strings.CutSuffix(h.Kind, listSuffix)
	if !isList {
		return header{}, false
	}
	items = header{APIVersion: h.APIVersion, Kind: kind}
	_, ours := newObject(items)
	return items, ours
}

func keyOf(h header) objectKey {
	k := objectKey{kind: h.Kind, namespace: h.Metadata.Namespace, name: h.Metadata.Name}
	switch {
	case !hasNamespace(k.kind):
		k.namespace = ""
	case k.namespace == "":
		k.namespace = metav1.NamespaceDefault
	}
	return k
}
