// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// style is how text looks. The zero value is for what is no terminal: no escape sequences, no line that is replaced.
type style struct {
	terminal bool // lines can be replaced
	colours  bool
}

// styleOf asks the kernel whether a file is a terminal, and the user for colours (https://no-color.org).
func styleOf(f *os.File) style {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	terminal := err == nil && os.Getenv("TERM") != "dumb"
	return style{terminal: terminal, colours: terminal && os.Getenv("NO_COLOR") == ""}
}

func (s style) bold(text string) string  { return s.in("1", text) }
func (s style) dim(text string) string   { return s.in("2", text) }
func (s style) green(text string) string { return s.in("32", text) }
func (s style) red(text string) string   { return s.in("1;31", text) }

func (s style) in(code, text string) string {
	if !s.colours || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// result colours the last cell of a table's line. The table is laid out before, since escape sequences have no width.
func (s style) result(line string) string {
	if rest, ok := strings.CutSuffix(line, " ok"); ok {
		return rest + " " + s.green("ok")
	}
	if at := strings.Index(line, wrongMark); at >= 0 {
		return line[:at] + s.red(line[at:])
	}
	return line
}

// progress says what the demo does now. On a terminal the next output replaces the line; elsewhere there is none, since
// the output that follows says the same.
func (d *demo) progress(format string, args ...any) {
	if d.style.terminal {
		fmt.Fprintf(d.out, "\r\x1b[K   "+d.style.dim("%s"), fmt.Sprintf(format, args...))
	}
}

// done removes the line of progress.
func (d *demo) done() {
	if d.style.terminal {
		fmt.Fprint(d.out, "\r\x1b[K")
	}
}

// print writes a line, in place of a line of progress.
func (d *demo) print(format string, args ...any) {
	d.done()
	fmt.Fprintf(d.out, format+"\n", args...)
}

// write writes a table, in place of a line of progress.
func (d *demo) write(t *table) {
	d.done()
	t.write(d.out, d.style)
}
