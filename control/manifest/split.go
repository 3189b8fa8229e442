// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// rawDocument is one document as JSON. JSON made of YAML loses duplicate keys, so they are listed
// separately.
type rawDocument struct {
	number     int
	json       []byte
	duplicates []string
}

// splitError says which document of a file is not YAML or JSON at all.
type splitError struct {
	number int
	err    error
}

func (e *splitError) Error() string { return e.err.Error() }

func split(path string, data []byte) ([]rawDocument, *splitError) {
	if filepath.Ext(path) == ".json" {
		return splitJSON(data)
	}
	return splitYAML(data)
}

func splitJSON(data []byte) ([]rawDocument, *splitError) {
	var docs []rawDocument
	stream := json.NewDecoder(bytes.NewReader(data))
	for number := 1; ; number++ {
		var raw json.RawMessage
		if err := stream.Decode(&raw); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, &splitError{number, err}
		}
		docs = append(docs, rawDocument{number: number, json: raw, duplicates: jsonDuplicates(raw)})
	}
}

func jsonDuplicates(data []byte) []string {
	var paths []string
	var anything any
	strict, err := kjson.UnmarshalStrict(data, &anything, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil // decoding the object reports what is wrong
	}
	for _, e := range strict {
		paths = append(paths, strictField(e))
	}
	return paths
}

// splitYAML doesn't count documents that are blank or hold only comments: to a reader, a comment
// above the first separator is no document.
func splitYAML(data []byte) ([]rawDocument, *splitError) {
	var docs []rawDocument
	stream := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for number := 1; ; {
		chunk, err := stream.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, &splitError{number, err}
		}
		doc, err := readYAML(chunk)
		if err != nil {
			return nil, &splitError{number, err}
		}
		if doc.json == nil {
			continue
		}
		doc.number = number
		docs = append(docs, doc)
		number++
	}
}

// readYAML converts as kubectl does. It also parses the tree of nodes, since the conversion does
// not report the paths of duplicate keys.
func readYAML(chunk []byte) (rawDocument, error) {
	var root yaml.Node
	stream := yaml.NewDecoder(bytes.NewReader(chunk))
	if err := stream.Decode(&root); errors.Is(err, io.EOF) {
		return rawDocument{}, nil
	} else if err != nil {
		return rawDocument{}, err
	}
	if err := stream.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return rawDocument{}, errors.New("yaml: a second document begins without a --- line")
	}
	converted, err := kyaml.YAMLToJSON(chunk)
	if err != nil {
		return rawDocument{}, err
	}
	if bytes.Equal(bytes.TrimSpace(converted), []byte("null")) {
		return rawDocument{}, nil
	}
	return rawDocument{json: converted, duplicates: yamlDuplicates(&root, "")}, nil
}

// yamlDuplicates lists the paths of keys that occur twice in one mapping. Aliases are not
// followed: their target is seen where it stands.
func yamlDuplicates(n *yaml.Node, path string) []string {
	var found []string
	switch n.Kind {
	case yaml.DocumentNode:
		for _, c := range n.Content {
			found = append(found, yamlDuplicates(c, path)...)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			found = append(found, yamlDuplicates(c, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := joinPath(path, n.Content[i].Value)
			if seen[key] && n.Content[i].Kind == yaml.ScalarNode {
				found = append(found, key)
			}
			seen[key] = true
			found = append(found, yamlDuplicates(n.Content[i+1], key)...)
		}
	}
	return found
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
