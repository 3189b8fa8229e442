// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	kjson "sigs.k8s.io/json"
)

var indices = regexp.MustCompile(`\[\d+\]`)

// typeErrorPath returns the path of a field whose value has a wrong type. The decoder names it
// without the indices of lists, but reports how far it had read.
func typeErrorPath(data []byte, err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return ""
	}
	// Types that decode themselves, such as IntOrString, count from their own beginning.
	if path := pathAt(data, wrong.Offset); indices.ReplaceAllString(path, "") == wrong.Field {
		return path
	}
	return wrong.Field
}

func typeErrorMessage(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Sprintf("%s is not of type %s", wrong.Value, wrong.Type)
	}
	return err.Error()
}

// level is a mapping or a list that encloses the current position in JSON.
type level struct {
	list  bool
	index int    // of the next element of a list
	key   string // of a mapping, once read
	keyed bool
}

// pathAt returns the path of the value that ends at an offset, or begins there.
func pathAt(data []byte, offset int64) string {
	var levels []level
	stream := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := stream.Token()
		if err != nil {
			return ""
		}
		isKey := false
		if n := len(levels); n > 0 && token != json.Delim('}') && token != json.Delim(']') {
			isKey = levels[n-1].enter(token)
		}
		if !isKey && stream.InputOffset() >= offset {
			return pathOf(levels)
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			levels = append(levels, level{list: token == json.Delim('[')})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
	}
}

// enter notes that a token follows inside of a level, and reports whether it is a key.
func (l *level) enter(token json.Token) bool {
	switch {
	case l.list:
		l.index++
		return false
	case l.keyed:
		l.keyed = false
		return false
	}
	l.key, l.keyed = fmt.Sprint(token), true
	return true
}

func pathOf(levels []level) string {
	path := ""
	for _, l := range levels {
		if l.list {
			path += fmt.Sprintf("[%d]", l.index-1)
		} else {
			path = joinPath(path, l.key)
		}
	}
	return path
}

// strictField returns the path that a strict decoder's error names.
func strictField(err error) string {
	var at kjson.FieldError
	if errors.As(err, &at) {
		return at.FieldPath()
	}
	return ""
}

// within are the paths below a prefix, relative to it.
func within(paths []string, prefix string) []string {
	var found []string
	for _, p := range paths {
		if rest, ok := strings.CutPrefix(p, prefix); ok {
			found = append(found, rest)
		}
	}
	return found
}
