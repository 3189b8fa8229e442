// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testVersion is what `make test-packages` makes a release of.
const testVersion = "v0.0.1-test"

// TestRelease: the checksums are those of all files.
func TestRelease(t *testing.T) {
	sums := release(t, "SHA256SUMS")
	raw, err := os.ReadFile(sums)
	check(t, err)
	var want, got []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		want = append(want, fields[1])
		content, err := os.ReadFile(filepath.Join(filepath.Dir(sums), fields[1]))
		check(t, err)
		if sum := fmt.Sprintf("%x", sha256.Sum256(content)); sum != fields[0] {
			t.Errorf("%s: %s, not %s", fields[1], sum, fields[0])
		}
	}
	entries, err := os.ReadDir(filepath.Dir(sums))
	check(t, err)
	for _, e := range entries {
		if e.Name() != "SHA256SUMS" {
			got = append(got, e.Name())
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SHA256SUMS (-) and the directory (+):\n%s", diff)
	}
	if want := 10; len(got) != want {
		t.Errorf("%d files, not %d: %v", len(got), want, got)
	}
	install, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	check(t, err)
	for _, name := range got {
		documented := strings.NewReplacer("0.0.1-test", "0.1.0", "0.0.1~test", "0.1.0").Replace(name)
		if !strings.Contains(string(install), documented) {
			t.Errorf("docs/install.md does not name %s", documented)
		}
	}
}

// TestImageRuns: for each architecture the image's entry point is a file in it, and that of this machine runs
// with nothing else in its file system.
func TestImageRuns(t *testing.T) {
	raw, err := os.ReadFile(release(t, "waggle-*-image.tar"))
	check(t, err)
	archive := untar(t, raw)
	var outer, index struct{ Manifests []descriptor }
	unmarshal(t, archive["index.json"], &outer)
	unmarshal(t, blob(archive, outer.Manifests[0]), &index)
	if len(index.Manifests) != 2 {
		t.Fatalf("%d images", len(index.Manifests))
	}
	for _, d := range index.Manifests {
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		var config struct {
			Architecture string
			Config       struct{ Entrypoint []string }
		}
		unmarshal(t, blob(archive, d), &manifest)
		unmarshal(t, blob(archive, manifest.Config), &config)
		files := untar(t, gunzip(t, blob(archive, manifest.Layers[0])))
		command := files[strings.TrimPrefix(config.Config.Entrypoint[0], "/")]
		info, err := buildinfo.Read(bytes.NewReader(command))
		check(t, err)
		if !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "GOARCH" && s.Value == d.Platform.Architecture }) {
			t.Errorf("%s: the command is built with %v", d.Platform.Architecture, info.Settings)
		}
		if d.Platform.Architecture == "amd64" {
			runAlone(t, files, config.Config.Entrypoint[0])
		}
	}
}

// runAlone runs a command in a file system that holds these files only.
func runAlone(t *testing.T, files map[string][]byte, command string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it changes the root directory")
	}
	dir := t.TempDir()
	for name, content := range files {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), content, 0o755))
	}
	out, err := exec.Command("chroot", dir, command, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "waggle "+testVersion+" ") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSBOM: the list of modules is what the binary says of itself.
func TestSBOM(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		raw, err := os.ReadFile(release(t, "waggle-*-linux-"+arch+".tar.gz"))
		check(t, err)
		info, err := buildinfo.Read(bytes.NewReader(untar(t, gunzip(t, raw))["waggle"]))
		check(t, err)
		want := []string{"std"}
		for _, m := range info.Deps {
			want = append(want, m.Path)
		}
		raw, err = os.ReadFile(release(t, "waggle-*-linux-"+arch+".cdx.json"))
		check(t, err)
		var bom struct {
			BOMFormat  string
			Components []struct{ Name string }
			Metadata   struct {
				Component struct{ Name, Version string }
			}
		}
		unmarshal(t, raw, &bom)
		var got []string
		for _, c := range bom.Components {
			got = append(got, c.Name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the binary (-) and the list (+):\n%s", arch, diff)
		}
		if bom.BOMFormat != "CycloneDX" || bom.Metadata.Component.Version != testVersion {
			t.Errorf("%s: %s of %+v", arch, bom.BOMFormat, bom.Metadata.Component)
		}
	}
}

// TestChartOfRelease: the chart that is published names the image that is.
func TestChartOfRelease(t *testing.T) {
	archive := release(t, "waggle-*.tgz")
	out, err := exec.Command(tool(t, "helm"), "template", "waggle", archive, "--namespace", namespace).Output()
	check(t, err)
	raw, err := os.ReadFile(filepath.Join(root, "deploy/waggle.yaml"))
	check(t, err)
	want := map[string]any{agent + "image": "waggle:" + testVersion}
	if diff := cmp.Diff(want, changes(flat(t, raw), flat(t, out))); diff != "" {
		t.Errorf("of deploy/waggle.yaml it changes (-want +got):\n%s", diff)
	}
}

// descriptor names a blob of an OCI layout.
type descriptor struct {
	Digest   string
	Platform struct{ OS, Architecture string }
}

func blob(archive map[string][]byte, d descriptor) []byte {
	return archive["blobs/"+strings.ReplaceAll(d.Digest, ":", "/")]
}

func unmarshal(t *testing.T, raw []byte, into any) {
	t.Helper()
	check(t, json.Unmarshal(raw, into))
}

func gunzip(t *testing.T, raw []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(raw))
	check(t, err)
	out, err := io.ReadAll(r)
	check(t, err)
	return out
}

// untar reads the files of an archive.
func untar(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		check(t, err)
		if header.Typeflag == tar.TypeReg {
			files[header.Name], err = io.ReadAll(r)
			check(t, err)
		}
	}
}
