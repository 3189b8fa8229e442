// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const chart = "../../deploy/chart/waggle"

// TestTemplateIsGenerated: the committed template is what deploy/waggle.yaml makes.
func TestTemplateIsGenerated(t *testing.T) {
	generated := filepath.Join(t.TempDir(), "waggle.yaml")
	if err := generate("../../deploy/waggle.yaml", generated); err != nil {
		t.Fatal(err)
	}
	if read(t, generated) != read(t, filepath.Join(chart, "templates/waggle.yaml")) {
		t.Error("deploy/chart/waggle/templates/waggle.yaml: run 'make chart' and commit the result")
	}
}

// TestLostPassage: a passage that the manifest no longer has is an error, not a value without effect.
func TestLostPassage(t *testing.T) {
	manifest := read(t, "../../deploy/waggle.yaml")
	for _, e := range edits {
		changed := strings.Replace(manifest, e.old, "", 1)
		if _, err := apply(changed); err == nil {
			t.Errorf("the manifest lacks %q, and the template is made", e.old)
		}
	}
}

// TestValuesAreDocumented: a comment in values.yaml precedes each value, and begins with its name;
// the schema has the same values and refuses others.
func TestValuesAreDocumented(t *testing.T) {
	raw := read(t, filepath.Join(chart, "values.yaml"))
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(raw), &values); err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal([]byte(read(t, filepath.Join(chart, "values.schema.json"))), &schema); err != nil {
		t.Fatal(err)
	}
	checkSchema(t, "", values, schema)
	image, _ := values["image"].(map[string]any)
	checkSchema(t, "image.", image, schema.Properties["image"])
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(values)), slices.Sorted(maps.Keys(image))) {
		if name == "image" {
			continue // its values are documented each
		}
		comment := regexp.MustCompile(`(?m)^ *# ` + name + `\b.*\n(?: *#.*\n)* *` + name + `:`)
		if !comment.MatchString(raw) {
			t.Errorf("values.yaml: no comment before %q begins with its name", name)
		}
	}
}

// object is the part of a schema that lists an object's fields.
type object struct {
	AdditionalProperties any               `json:"additionalProperties"`
	Properties           map[string]object `json:"properties"`
}

func checkSchema(t *testing.T, prefix string, values map[string]any, schema object) {
	t.Helper()
	if schema.AdditionalProperties != false {
		t.Errorf("the schema admits unknown values below %q", prefix)
	}
	for name := range values {
		if _, ok := schema.Properties[name]; !ok {
			t.Errorf("the schema lacks %s%s", prefix, name)
		}
	}
	for name := range schema.Properties {
		if _, ok := values[name]; !ok {
			t.Errorf("values.yaml lacks %s%s", prefix, name)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
