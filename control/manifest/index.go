// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/waggle-lb/waggle/control/status"
)

// index has, for each object, its definitions and its state in force.
type index struct {
	defined map[objectKey][]*document // in the order of files and documents
	inForce map[objectKey]*document
	files   map[string]keySet // what each file defines
}

func newIndex() *index {
	return &index{
		defined: map[objectKey][]*document{},
		inForce: map[objectKey]*document{},
		files:   map[string]keySet{},
	}
}

// replace puts the documents of a file in the place of those it had, and adds all the objects
// that may have changed.
func (x *index) replace(c change, touched keySet) {
	for key := range x.files[c.path] {
		x.defined[key] = slices.DeleteFunc(x.defined[key], func(d *document) bool { return d.file == c.path })
		touched.add(key)
	}
	delete(x.files, c.path)
	for i := range c.documents {
		d := &c.documents[i]
		x.define(d)
		touched.add(d.key)
	}
}

func (x *index) define(d *document) {
	if x.files[d.file] == nil {
		x.files[d.file] = keySet{}
	}
	x.files[d.file].add(d.key)
	x.defined[d.key] = append(x.defined[d.key], d)
	slices.SortStableFunc(x.defined[d.key], func(a, b *document) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.number, b.number))
	})
}

// definedBeside reports whether a file other than this one defines an object.
func (x *index) definedBeside(key objectKey, path string) bool {
	return slices.ContainsFunc(x.defined[key], func(d *document) bool { return d.file != path })
}

// settle decides what is in force of an object: the first definition of all, in its last good
// state. changed reports whether that has changed; found is what is wrong with the definitions.
func (x *index) settle(key objectKey) (changed bool, found []status.Problem) {
	all := x.defined[key]
	before := x.inForce[key]
	if len(all) == 0 {
		delete(x.defined, key)
		delete(x.inForce, key)
		return before != nil, nil
	}
	first := all[0]
	found = append(found, first.unsound...)
	for _, other := range all[1:] {
		found = append(found, other.fault("metadata.name", fmt.Sprintf(
			"is already defined in %s, document %d; that definition is in force", first.file, first.number)))
	}
	if len(first.unsound) > 0 {
		return false, found
	}
	x.inForce[key] = first
	return before == nil || !equality.Semantic.DeepEqual(before.object, first.object), found
}
