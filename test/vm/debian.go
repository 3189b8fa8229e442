// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// archive is Debian's, with lists and packages of our own: which releases this machine installs
// from, and what it has installed, doesn't matter.
type archive struct{ dir string }

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// The kernels: 6.1 is bookworm's, 6.12 is trixie's, and later ones come as backports.
var suites = []struct{ url, suite string }{
	{"http://deb.debian.org/debian", "bookworm"},
	{"http://deb.debian.org/debian-security", "bookworm-security"},
	{"http://deb.debian.org/debian", "trixie"},
	{"http://deb.debian.org/debian-security", "trixie-security"},
	{"http://deb.debian.org/debian", "trixie-backports"},
}

func (a archive) lists() string { return filepath.Join(a.dir, "lists") }

// update fetches the lists of packages, unless that was done today.
func (a archive) update() error {
	for _, dir := range []string{filepath.Join(a.lists(), "partial"), filepath.Join(a.dir, "archives/partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	sources := filepath.Join(a.dir, "sources.list")
	if info, err := os.Stat(sources); err == nil && time.Since(info.ModTime()) < 24*time.Hour {
		return nil
	}
	var text strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&text, "deb [signed-by=%s] %s %s main\n", keyring, s.url, s.suite)
	}
	fresh := sources + ".new"
	if err := os.WriteFile(fresh, []byte(text.String()), 0o644); err != nil {
		return err
	}
	if _, err := a.apt("apt-get", fresh, "update", "-q"); err != nil {
		return err
	}
	return os.Rename(fresh, sources)
}

func (a archive) apt(command, sources string, args ...string) (string, error) {
	options := []string{
		"Dir::Etc::sourcelist=" + sources, "Dir::Etc::sourceparts=/dev/null",
		"Dir::State::lists=" + a.lists(), "Dir::Cache=" + a.dir,
		"APT::Sandbox::User=root", "Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	var all []string
	for _, o := range options {
		all = append(all, "-o", o)
	}
	return output(a.dir, command, append(all, args...)...)
}

func (a archive) cache(args ...string) (string, error) {
	return a.apt("apt-cache", filepath.Join(a.dir, "sources.list"), args...)
}

// download returns a package's file. The version may be empty.
func (a archive) download(name, version string) (string, error) {
	what := name
	if version != "" {
		what += "=" + version
	}
	list, err := a.apt("apt-get", filepath.Join(a.dir, "sources.list"), "download", "-q", "--print-uris", what)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(list) // 'uri' file size hash
	if len(fields) < 2 {
		return "", fmt.Errorf("package %s: apt-get says only %q", what, list)
	}
	file := filepath.Join(a.dir, fields[1])
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	_, err = a.apt("apt-get", filepath.Join(a.dir, "sources.list"), "download", "-q", what)
	return file, err
}

// output runs a command in a directory, and returns its standard output.
func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}
