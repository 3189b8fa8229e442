// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"k8s.io/apimachinery/pkg/api/equality"
)

// collection has the objects of one kind that were delivered, and what has changed since.
type collection[T any] struct {
	objects map[objectKey]*T
	before  map[objectKey]*T // of those that have changed; nil if there was none
}

func newCollection[T any]() *collection[T] {
	return &collection[T]{objects: map[objectKey]*T{}, before: map[objectKey]*T{}}
}

// set gives an object a new state; nil removes it.
func (c *collection[T]) set(key objectKey, object *T) {
	if _, ok := c.before[key]; !ok {
		c.before[key] = c.objects[key]
	}
	if object == nil {
		delete(c.objects, key)
	} else {
		c.objects[key] = object
	}
}

// step is a change of one object, as a Sink wants it.
type step[T any] struct{ old, new *T }

// changes are the steps from what was delivered before, by what they do, each in the order of keys.
type changes[T any] struct {
	added, updated, removed []step[T]
}

// take lists what has changed, and starts a new list. An object that is the same as before is not
// listed: the delivered one stays, and later ones are compared with it.
func (c *collection[T]) take() changes[T] {
	touched := keySet{}
	for key := range c.before {
		touched.add(key)
	}
	var all changes[T]
	for _, key := range touched.sorted() {
		s := step[T]{old: c.before[key], new: c.objects[key]}
		switch {
		case s.old == nil && s.new == nil:
		case s.old == nil:
			all.added = append(all.added, s)
		case s.new == nil:
			all.removed = append(all.removed, s)
		case equality.Semantic.DeepEqual(s.old, s.new):
			c.objects[key] = s.old
		default:
			all.updated = append(all.updated, s)
		}
	}
	c.before = map[objectKey]*T{}
	return all
}
