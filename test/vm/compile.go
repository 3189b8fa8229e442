// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// test is a package's tests, compiled.
type test struct {
	dir  string // of the package, below the repository's
	name string // of its files in the share
}

func (t test) binary() string { return t.name + ".test" }
func (t test) output() string { return t.name + ".out" }
func (t test) status() string { return t.name + ".status" }

// compile fills the directory that is shared with the machine: tests, and the command if they start it.
func compile(packages []string, arch, share string) ([]test, error) {
	if err := errors.Join(os.RemoveAll(share), os.MkdirAll(share, 0o755)); err != nil {
		return nil, err
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	list, err := output(".", "go", append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}"}, packages...)...)
	if err != nil {
		return nil, err
	}
	needed, err := output(".", "go", append([]string{"list", "-test", "-deps"}, packages...)...)
	if err != nil {
		return nil, err
	}
	// The command takes long to compile, and only what starts agents needs it.
	startAgents := strings.Contains(needed, "/test/cluster\n")
	var tests []test
	for _, dir := range strings.Fields(list) {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, err
		}
		t := test{rel, strings.ReplaceAll(rel, "/", "-")}
		if _, err := goFor(arch, "test", "-c", "-ldflags=-s -w", "-o", filepath.Join(share, t.binary()), "./"+rel); err != nil {
			return nil, err
		}
		tests = append(tests, t)
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("no tests in %v", packages)
	}
	if !startAgents {
		return tests, nil
	}
	_, err = goFor(arch, "build", "-ldflags=-s -w", "-o", filepath.Join(share, "waggle"), "./cmd/waggle")
	return tests, err
}

// goFor runs the go command for an architecture.
func goFor(arch string, args ...string) (string, error) {
	return output(".", "env", append([]string{"GOARCH=" + arch, "go"}, args...)...)
}
