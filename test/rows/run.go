// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// result is how a test ended.
type result string

const (
	pass   result = "pass"
	notRun result = "not run"
)

// event is a line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

// resultOf is how a test ended for a row: a subtest named "row 14" says more
// than the whole.
func resultOf(results map[test]result, t test, row int) result {
	if r, ok := results[test{t.pkg, fmt.Sprintf("%s/row_%d", t.name, row)}]; ok {
		return r
	}
	return results[t]
}

// runTests runs tests, one package at a time, since they measure time-outs. It
// fails only if they can't be run.
func runTests(dir string, tests []test, show string) (map[test]result, error) {
	module, err := goList(dir)
	if err != nil {
		return nil, err
	}
	var names, packages []string
	results := map[test]result{}
	for _, t := range tests {
		results[t] = notRun
		if !slices.Contains(names, t.name) {
			names = append(names, t.name)
		}
		if !slices.Contains(packages, t.pkg) {
			packages = append(packages, t.pkg)
		}
	}
	args := append([]string{"test", "-json", "-count=1", "-p=1", "-timeout=30m", "-run=^(" + strings.Join(names, "|") + ")$"}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := reader{module: module, show: show, results: results, output: map[test]*strings.Builder{}}
	err = r.read(stdout)
	var exit *exec.ExitError
	if waited := cmd.Wait(); err == nil && waited != nil && !errors.As(waited, &exit) {
		err = waited
	}
	return results, err
}

func goList(dir string) (string, error) {
	cmd := exec.Command("go", "list", "-m")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// reader follows the tests, and prints the output of those that fail.
type reader struct {
	module, show string
	results      map[test]result
	output       map[test]*strings.Builder
}

func (r *reader) read(events io.Reader) error {
	for decoder := json.NewDecoder(events); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("output of go test: %w", err)
		}
		r.event(e)
	}
}

func (r *reader) event(e event) {
	name, _, isPart := strings.Cut(e.Test, "/")
	t := test{"." + strings.TrimPrefix(e.Package, r.module), name}
	if r.output[t] == nil {
		r.output[t] = &strings.Builder{}
	}
	switch e.Action {
	case "output", "build-output":
		if name == "" { // of the package, or of the compiler
			fmt.Print(e.Output)
			return
		}
		r.output[t].WriteString(e.Output)
	case "pass", "fail", "skip":
		if isPart {
			r.results[test{t.pkg, e.Test}] = result(e.Action)
			return
		}
		if name == "" {
			return
		}
		r.results[t] = result(e.Action)
		if e.Action != string(pass) || name == r.show {
			fmt.Print(r.output[t].String())
		}
		fmt.Printf("%s %s %s (%v)\n", e.Action, t.pkg, t.name, time.Duration(e.Elapsed*float64(time.Second)).Round(time.Millisecond))
		delete(r.output, t)
	}
}
