// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waggle-lb/waggle/control/status"
)

// document is one object as it was read; without the object if it could not be decoded.
type document struct {
	key    objectKey
	file   string
	number int // of the document in its file, from 1; the items of a List share it

	object  metav1.Object // nil if it could not be decoded
	unsound []status.Problem
}

// contents is what a file holds.
type contents struct {
	documents []document
	problems  []status.Problem // of documents that can't be identified as any object
	ignored   []string         // of each document of a kind that is not ours: apiVersion and kind

	// broken says that the file as a whole can't be read, so its contents are not known.
	broken bool
	// vague says that some document can't be identified. An object that is missing from the
	// file may be that document.
	vague bool
}

func (c *contents) keys() keySet {
	keys := keySet{}
	for i := range c.documents {
		keys.add(c.documents[i].key)
	}
	return keys
}

// sound reports whether nothing is wrong with any document.
func (c *contents) sound() bool {
	return len(c.problems) == 0 && !slices.ContainsFunc(c.documents, func(d document) bool {
		return len(d.unsound) > 0
	})
}

// after returns the contents to keep of a file, given what it held before: unknown parts stay as they were.
func (c contents) after(before contents) contents {
	switch {
	case c.broken:
		c.documents = before.documents
	case c.vague:
		now := c.keys()
		for _, d := range before.documents {
			if !now.has(d.key) {
				c.documents = append(c.documents, d)
			}
		}
	}
	return c
}
