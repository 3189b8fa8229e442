// SPDX-License-Identifier: Apache-2.0

// Command mutate breaks the datapath in one place after another, and checks whether the tests
// notice. It works on copies, and fails if a change is not noticed.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

var (
	only    = flag.String("only", "", "a regular expression: only the mutations whose name it matches")
	clang   = flag.String("clang", "clang-19", "the compiler")
	seed    = flag.Uint64("seed", 1, "of the packets")
	patient = flag.Duration("for", time.Minute, "for how long a mutation may stay unnoticed")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waggle-mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tests := filepath.Join(dir, "prog.test")
	build := exec.Command("go", "test", "-c", "-o", tests, "./test/prog")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("%v: %w", build.Args, err)
	}
	survivors, tried := 0, 0
	for _, s := range suites {
		s.mutations = slices.DeleteFunc(s.mutations, func(m mutation) bool { return !wanted.MatchString(m.name) })
		tried += len(s.mutations)
		n, err := s.run(dir, tests)
		if err != nil {
			return err
		}
		survivors += n
	}
	if survivors > 0 {
		return fmt.Errorf("%d of %d mutations were not noticed", survivors, tried)
	}
	fmt.Printf("all %d mutations were noticed\n", tried)
	return nil
}

// run tries a suite's mutations, and counts those that are not noticed.
func (s suite) run(dir, tests string) (survivors int, err error) {
	if len(s.mutations) == 0 {
		return 0, nil
	}
	if found, err := s.try(dir, tests, mutation{}); err != nil || found != "" {
		return 0, fmt.Errorf("what is not broken fails: %s %w", found, err)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, m := range s.mutations {
		start := time.Now()
		found, err := s.try(dir, tests, m)
		if err != nil {
			return survivors, fmt.Errorf("%s: %w", m.name, err)
		}
		if found == "" {
			survivors++
			found = "NOT NOTICED"
		}
		fmt.Fprintf(w, "%s\t%.1f s\t%s\n", m.name, time.Since(start).Seconds(), found)
		w.Flush()
	}
	return survivors, nil
}

// try compiles a broken copy of the datapath and tests it. It returns the test's complaint.
func (s suite) try(dir, tests string, m mutation) (found string, err error) {
	source := filepath.Join(dir, "bpf")
	if err := os.RemoveAll(source); err != nil {
		return "", err
	}
	if err := os.CopyFS(source, os.DirFS("bpf")); err != nil {
		return "", err
	}
	if err := m.apply(source); err != nil {
		return "", err
	}
	object := filepath.Join(dir, "waggle.o")
	if err := compile(source, object); err != nil {
		return "", err
	}
	duration, limit := *patient, 2**patient+4*time.Minute
	if m.name == "" {
		duration = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tests, "-test.run", s.tests, "-test.failfast", "-object", object, "-fuzz-only-find",
		"-fuzz-seed", fmt.Sprint(*seed), "-fuzz-for", duration.String())
	cmd.Dir = "test/prog"
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "it hung", nil
	case err == nil:
		return "", nil
	case bytes.Contains(out, []byte("load program")):
		return "", fmt.Errorf("the verifier refuses it, which is not what is asked:\n%s", out)
	case errors.As(err, &exit):
		return summary(out), nil
	}
	return "", err
}

func compile(source, object string) error {
	cmd := exec.Command(*clang, "-target", "bpfel", "-O2", "-g", "-mcpu=v3", "-fno-strict-aliasing", "-Wno-everything",
		"-I/usr/include/"+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+"-linux-gnu",
		"-c", filepath.Join(source, "waggle.c"), "-o", object)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// summary returns the line of a failed test that says what is wrong.
func summary(out []byte) string {
	for line := range bytes.Lines(out) {
		if _, what, ok := strings.Cut(string(line), ": seed "); ok {
			what = strings.TrimSpace(what)
			return what[:min(len(what), 110)]
		}
	}
	return strings.TrimSpace(string(out[:min(len(out), 200)]))
}
