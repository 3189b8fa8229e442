// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	resultLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)
	// The test that what follows is of.
	testLine = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S+)`)
	logLine  = regexp.MustCompile(`^\s+\w+\.go:\d+: (.*)`)
)

// outcome is what a package's output says.
type outcome struct {
	passed  int // leaves of the tree of tests and subtests, as are those below
	skipped []skip
	failed  []string
}

// skip is a test that was left out, and what it said last.
type skip struct{ name, why string }

// report prints what became of the tests, and reports whether all of them have passed. A package
// without a status did not end.
func report(w io.Writer, tests []test, share string) bool {
	ok := true
	for _, t := range tests {
		text, err := os.ReadFile(filepath.Join(share, t.output()))
		if err != nil {
			fmt.Fprintf(w, "%-24s not run\n", t.dir)
			ok = false
			continue
		}
		status, _ := os.ReadFile(filepath.Join(share, t.status()))
		o := read(text)
		result := "ok"
		if string(bytes.TrimSpace(status)) != "0" {
			result, ok = "FAIL", false
		}
		fmt.Fprintf(w, "%-24s %-4s %5d passed %4d skipped %4d failed\n", t.dir, result, o.passed, len(o.skipped), len(o.failed))
		reportSkipped(w, o.skipped)
		for _, name := range o.failed {
			fmt.Fprintf(w, "    FAILED:  %s\n", name)
		}
		if result != "ok" {
			fmt.Fprintf(w, "    its output is %s\n", filepath.Join(share, t.output()))
			if len(o.failed) == 0 {
				fmt.Fprintf(w, "    and ends:\n%s\n", tail(text, 20))
			}
		}
	}
	return ok
}

// reportSkipped prints a line for each reason.
func reportSkipped(w io.Writer, skipped []skip) {
	var reasons []string
	tests := map[string][]string{}
	count := map[string]int{}
	for _, s := range skipped {
		test, _, _ := strings.Cut(s.name, "/")
		if count[s.why]++; count[s.why] == 1 {
			reasons = append(reasons, s.why)
		}
		if !slices.Contains(tests[s.why], test) {
			tests[s.why] = append(tests[s.why], test)
		}
	}
	for _, why := range reasons {
		fmt.Fprintf(w, "    skipped: %d of %s: %s\n", count[why], strings.Join(tests[why], ", "), why)
	}
}

func read(text []byte) outcome {
	var o outcome
	results := map[string]string{}
	said := map[string]string{}
	current := ""
	parents := map[string]bool{}
	var order []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		if m := testLine.FindStringSubmatch(lines.Text()); m != nil {
			current = m[1]
		} else if m := logLine.FindStringSubmatch(lines.Text()); m != nil {
			said[current] = m[1]
		}
		m := resultLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		results[m[2]] = m[1]
		order = append(order, m[2])
		for name := m[2]; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			parents[name] = true
		}
	}
	for _, name := range order {
		switch {
		case parents[name]:
		case results[name] == "PASS":
			o.passed++
		case results[name] == "SKIP":
			o.skipped = append(o.skipped, skip{name, said[name]})
		default:
			o.failed = append(o.failed, name)
		}
	}
	return o
}

func tail(text []byte, count int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
