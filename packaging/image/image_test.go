// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program is small; what the image makes of the real command is tested in test/packaging.
const program = "package main\n\nfunc main() { println(\"hello\") }\n"

// compile makes a static program for each architecture.
func compile(t *testing.T) []binary {
	t.Helper()
	source := filepath.Join(t.TempDir(), "main.go")
	check(t, os.WriteFile(source, []byte(program), 0o644))
	var all []binary
	for _, architecture := range []string{"amd64", "arm64"} {
		b := binary{architecture, filepath.Join(t.TempDir(), "waggle")}
		cmd := exec.Command("go", "build", "-trimpath", "-o", b.file, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		all = append(all, b)
	}
	return all
}

func newOptions(t *testing.T, binaries []binary) options {
	t.Helper()
	return options{
		output: filepath.Join(t.TempDir(), "image.tar"), name: "registry.example.org/lb/waggle:v1", version: "v1", revision: "abc",
		date: time.Unix(1_700_000_000, 0).UTC(), files: []string{"main.go"}, binaries: binaries,
	}
}

// TestReproducible: the archive is equal bit by bit, though the files were made at another time and
// lie elsewhere; another date makes another archive.
func TestReproducible(t *testing.T) {
	opts := newOptions(t, compile(t))
	check(t, write(opts))
	var copies []binary
	for _, b := range opts.binaries {
		file := filepath.Join(t.TempDir(), "copy")
		check(t, os.WriteFile(file, content(t, b.file), 0o600))
		check(t, os.Chtimes(file, time.Time{}, time.Unix(1, 0)))
		copies = append(copies, binary{b.architecture, file})
	}
	again := newOptions(t, copies)
	check(t, write(again))
	if !bytes.Equal(content(t, opts.output), content(t, again.output)) {
		t.Error("two archives of the same files differ")
	}
	again.date = again.date.Add(time.Second)
	check(t, write(again))
	if bytes.Equal(content(t, opts.output), content(t, again.output)) {
		t.Error("the date has no effect")
	}
}

// TestImages: the archive holds one index with an image for each architecture, and each image the
// command, where the manifests expect it, and the files.
func TestImages(t *testing.T) {
	opts := newOptions(t, compile(t))
	check(t, write(opts))
	outer, index := open(t, opts.output)
	check(t, validate.Index(index))
	want := map[string]string{annotationName: opts.name, annotationTag: "v1"}
	for key, value := range want {
		if got := outer.Annotations[key]; got != value {
			t.Errorf("annotation %s: %q, not %q", key, got, value)
		}
	}
	manifest, err := index.IndexManifest()
	check(t, err)
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		if m.ArtifactType != "" {
			t.Errorf("%s is listed as an artifact, %s", m.Platform, m.ArtifactType)
		}
		image, err := index.Image(m.Digest)
		check(t, err)
		checkImage(t, opts, image, m.Platform.Architecture)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %v, not %v", platforms, want)
	}
}

func checkImage(t *testing.T, opts options, image v1.Image, architecture string) {
	t.Helper()
	config, err := image.ConfigFile()
	check(t, err)
	if config.Architecture != architecture || config.OS != "linux" || !config.Created.Equal(opts.date) {
		t.Errorf("%s: the configuration is of %s/%s, %s", architecture, config.OS, config.Architecture, config.Created)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/waggle"}) || len(config.Config.Cmd) > 0 {
		t.Errorf("%s: entry point %q, command %q", architecture, config.Config.Entrypoint, config.Config.Cmd)
	}
	for key, value := range map[string]string{"version": "v1", "revision": "abc", "licenses": "Apache-2.0 AND GPL-2.0-only", "created": "2023-11-14T22:13:20Z"} {
		if got := config.Config.Labels["org.opencontainers.image."+key]; got != value {
			t.Errorf("%s: label %s is %q, not %q", architecture, key, got, value)
		}
	}
	layers, err := image.Layers()
	check(t, err)
	raw, err := layers[0].Uncompressed()
	check(t, err)
	files := untar(t, raw)
	i := slices.IndexFunc(opts.binaries, func(b binary) bool { return b.architecture == architecture })
	if len(layers) != 1 || len(files) != 2 || !bytes.Equal(files["waggle"], content(t, opts.binaries[i].file)) || files["main.go"] == nil {
		t.Errorf("%s: %d layers, the first with %d files", architecture, len(layers), len(files))
	}
}

// TestRefused: what would make an image that does not run is one clear line.
func TestRefused(t *testing.T) {
	good := compile(t)
	for _, c := range []struct {
		want   string
		change func(o *options)
	}{
		{"is of EM_AARCH64, not of EM_X86_64", func(o *options) { o.binaries = []binary{{"amd64", good[1].file}} }},
		{`unknown architecture "riscv64"`, func(o *options) { o.binaries = []binary{{"riscv64", good[1].file}} }},
		{"wants a dynamic linker", func(o *options) { o.binaries = []binary{{"amd64", "/bin/sh"}} }},
		{"-name waggle: has no tag", func(o *options) { o.name = "waggle" }},
		{"-name Waggle:v1: ", func(o *options) { o.name = "Waggle:v1" }},
		{"no-such-file", func(o *options) { o.files = []string{"no-such-file"} }},
	} {
		opts := newOptions(t, good)
		c.change(&opts)
		err := write(opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v; want %q", err, c.want)
		}
		if _, err := os.Stat(opts.output); err == nil {
			t.Errorf("%s: there is an archive", c.want)
		}
	}
}

// open unpacks an archive, and finds the image index in it.
func open(t *testing.T, archive string) (v1.Descriptor, v1.ImageIndex) {
	t.Helper()
	f, err := os.Open(archive)
	check(t, err)
	defer f.Close()
	dir := t.TempDir()
	for name, raw := range untar(t, f) {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), raw, 0o644))
	}
	path, err := layout.FromPath(dir)
	check(t, err)
	outer, err := path.ImageIndex()
	check(t, err)
	manifest, err := outer.IndexManifest()
	check(t, err)
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the archive has %d images", len(manifest.Manifests))
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	check(t, err)
	return manifest.Manifests[0], index
}

// untar reads the files of an archive.
func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		check(t, err)
		if header.Typeflag != tar.TypeReg {
			continue
		}
		raw, err := io.ReadAll(archive)
		check(t, err)
		files[header.Name] = raw
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	check(t, err)
	return raw
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
