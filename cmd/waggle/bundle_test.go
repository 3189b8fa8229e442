// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBundleErrors: what the command can't do it says in a line, and leaves no file.
func TestBundleErrors(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.tar.gz")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"bundle " + there:                               there + ": the file exists already",
		"bundle " + dir + "/none/x.tar.gz":              "open " + dir + "/none/x.tar.gz: no such file or directory",
		"bundle --flows -1 " + dir + "/x.tar.gz":        "--flows -1: a number of records, or 0 for none",
		"bundle a b":                                    "accepts at most 1 arg(s), received 2",
		"bundle --hash-addresses=some " + dir + "/x.gz": `invalid argument "some" for "--hash-addresses" flag: strconv.ParseBool: parsing "some": invalid syntax`,
	} {
		_, err := run(t, append(strings.Fields(command), "--pin-dir=/no.such", "--run-dir="+dir)...)
		if err == nil || err.Error() != want {
			t.Errorf("%s: error %v\nwant %s", command, err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v (%v)", left, err)
	}
	if raw, _ := os.ReadFile(there); string(raw) != "mine" {
		t.Errorf("the file that was there holds %q", raw)
	}
}

// TestBundleIsBounded: of a part that is too large, the beginning is there, and the manifest says so.
func TestBundleIsBounded(t *testing.T) {
	b := bundle{g: &globals{}}
	var raw bytes.Buffer
	archive := tar.NewWriter(&raw)
	written := 0
	large := part{"large.txt", "much", func(_ *bundle, w io.Writer) error {
		for line := []byte(strings.Repeat("x", 99) + "\n"); ; written += len(line) {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}}
	if err := b.add(archive, large); err != nil {
		t.Fatal(err)
	}
	if written > largestPart {
		t.Errorf("%d bytes were taken", written)
	}
	header, err := tar.NewReader(&raw).Next()
	if err != nil || header.Size != largestPart {
		t.Errorf("it holds %+v (%v)", header, err)
	}
	if want := "large.txt: not complete: cut at 4 MiB"; len(b.missing) != 1 || b.missing[0] != want {
		t.Errorf("missing: %q, want %q", b.missing, want)
	}
}
