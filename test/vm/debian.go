// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// archive is Debian's for one architecture, with lists and packages of our own: which releases this
// machine installs from, and what it has installed, doesn't matter.
type archive struct {
	dir  string
	arch string
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// The kernels: 6.1 is bookworm's, 6.12 is trixie's, and later ones come as backports. Where they
// are is given by what this machine installs from: the end of its address.
var suites = []struct{ archive, suite string }{
	{"debian", "bookworm"},
	{"debian-security", "bookworm-security"},
	{"debian", "trixie"},
	{"debian-security", "trixie-security"},
	{"debian", "trixie-backports"},
}

// sources are the lines of a sources.list that has the suites.
func sources(sites []string) (string, error) {
	var text strings.Builder
	for _, s := range suites {
		at := slices.IndexFunc(sites, func(site string) bool { return path.Base(site) == s.archive })
		if at < 0 {
			return "", fmt.Errorf("apt has no source that ends in /%s: %q", s.archive, sites)
		}
		fmt.Fprintf(&text, "deb [signed-by=%s] %s %s main\n", keyring, sites[at], s.suite)
	}
	return text.String(), nil
}

func (a archive) lists() string { return filepath.Join(a.dir, "lists") }

// update fetches the lists of packages, unless that was done today.
func (a archive) update() error {
	for _, dir := range []string{filepath.Join(a.lists(), "partial"), filepath.Join(a.dir, "archives/partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	list := filepath.Join(a.dir, "sources.list")
	if info, err := os.Stat(list); err == nil && time.Since(info.ModTime()) < 24*time.Hour {
		return nil
	}
	sites, err := output(a.dir, "apt-get", "indextargets", "--format", "$(SITE)")
	if err != nil {
		return err
	}
	text, err := sources(strings.Fields(sites))
	if err != nil {
		return err
	}
	fresh := list + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := a.apt("apt-get", fresh, "update", "-q"); err != nil {
		return err
	}
	return os.Rename(fresh, list)
}

func (a archive) apt(command, sources string, args ...string) (string, error) {
	options := []string{
		"Dir::Etc::sourcelist=" + sources, "Dir::Etc::sourceparts=/dev/null",
		"Dir::State::lists=" + a.lists(), "Dir::Cache=" + a.dir,
		"Dir::State::status=/dev/null", "APT::Architecture=" + a.arch, "APT::Architectures=" + a.arch,
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

// closure returns a line for each of some packages and of those that they depend on.
func (a archive) closure(names ...string) (string, error) {
	plan, err := a.install("--simulate", names...)
	if err != nil {
		return "", err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(plan, "\n"), func(line string) bool { return !strings.HasPrefix(line, "Inst ") })
	slices.Sort(lines)
	return strings.Join(lines, ""), nil
}

// downloadAll returns the files of some packages and of those that they depend on, in a new directory.
func (a archive) downloadAll(dir string, names ...string) ([]string, error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "partial"), 0o755)); err != nil {
		return nil, err
	}
	if _, err := a.install("--download-only", append([]string{"-o", "Dir::Cache::archives=" + dir}, names...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

func (a archive) install(how string, args ...string) (string, error) {
	return a.apt("apt-get", filepath.Join(a.dir, "sources.list"), append([]string{"install", "-qy", "--no-install-recommends", how}, args...)...)
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
