// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// example is a demo whose summary is the one that README.md shows.
func example(out *bytes.Buffer, s style) *demo {
	d := newDemo(out, "", "")
	d.style = s
	checks, requests := []int{8, 2, 4, 4, 8}, []int{96, 25, 48, 48, 96}
	for i, section := range sections {
		d.summary.parts = append(d.summary.parts, part{what: section.title, how: section.how, checks: checks[i], requests: requests[i]})
	}
	names, under, moving := byName, changes, moves
	names.checks, names.requests = 3, 36
	under.checks, under.requests = 5, 2266
	moving.checks, moving.requests = 3, 617
	d.summary.parts = append(d.summary.parts, names, under, moving)
	d.summary.figures = figures{
		firstAnswer: 97 * time.Millisecond, lastAnswer: 79 * time.Millisecond, withoutAgent: 261, silence: 36 * time.Millisecond,
	}
	d.summary.elapsed = 33500 * time.Millisecond
	return d
}

// TestREADME: README.md shows the summary as it is.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	example(&out, style{}).summarize(false)
	var want strings.Builder
	for l := range strings.Lines(strings.TrimSpace(out.String())) {
		if l != "\n" {
			l = "    " + l
		}
		want.WriteString(l)
	}
	if !strings.Contains(string(readme), "\n\n"+want.String()+"\n\n") {
		t.Errorf("README.md does not show this end of make demo:\n%s", want.String())
	}
}

// TestStyles: what is no terminal gets no escape sequence, and NO_COLOR leaves a terminal without colours.
func TestStyles(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pty := newTerminal(t).slave
	for name, c := range map[string]struct {
		file          *os.File
		term, noColor string
		want          style
	}{
		"a file":                  {file, "xterm", "", style{}},
		"a terminal":              {pty, "xterm", "", style{terminal: true, colours: true}},
		"a terminal, NO_COLOR":    {pty, "xterm", "1", style{terminal: true}},
		"a terminal without both": {pty, "dumb", "", style{}},
	} {
		t.Setenv("TERM", c.term)
		t.Setenv("NO_COLOR", c.noColor)
		got := styleOf(c.file)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		var out bytes.Buffer
		d := example(&out, got)
		d.progress("progress")
		d.summary.parts[0].wrong = 1
		d.summarize(false)
		if escapes := strings.ContainsAny(out.String(), "\x1b\r"); escapes != c.want.terminal {
			t.Errorf("%s: escape sequences: %v\n%q", name, escapes, out.String())
		}
		if colours := strings.Contains(out.String(), "\x1b[1;31m"+wrongMark); colours != c.want.colours {
			t.Errorf("%s: colours: %v\n%q", name, colours, out.String())
		}
	}
}

// TestColoursKeepColumns: without its escape sequences, a coloured table is the plain one.
func TestColoursKeepColumns(t *testing.T) {
	var plain, coloured bytes.Buffer
	for _, c := range []struct {
		out *bytes.Buffer
		s   style
	}{{&plain, style{}}, {&coloured, style{colours: true}}} {
		d := example(c.out, c.s)
		d.summary.parts[1].wrong = 2
		d.summarize(true)
	}
	stripped := coloured.String()
	for _, code := range []string{"\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if diff := cmp.Diff(plain.String(), stripped); diff != "" || stripped == coloured.String() {
		t.Errorf("(-plain +coloured):\n%s", diff)
	}
}
