// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations of the archive's index.json, from which importers take the image's name. containerd
// and podman read the first one, skopeo the second one.
const (
	annotationName = "io.containerd.image.name"
	annotationTag  = "org.opencontainers.image.ref.name"
)

// write writes the archive: an OCI layout as a tar file.
func write(opts options) error {
	named, err := reference.ParseNormalizedNamed(opts.name)
	if err != nil {
		return fmt.Errorf("-name %s: %w", opts.name, err)
	}
	tagged, ok := named.(reference.NamedTagged)
	if !ok {
		return fmt.Errorf("-name %s: has no tag", opts.name)
	}
	index, err := newIndex(opts)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waggle-image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	outer := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			annotationName: tagged.String(), annotationTag: tagged.Tag(),
		}},
	})
	if _, err := layout.Write(dir, outer); err != nil {
		return err
	}
	if err := writeDockerManifest(dir, tagged, index); err != nil {
		return err
	}
	var raw bytes.Buffer
	if err := tarTree(&raw, dir, opts.date); err != nil {
		return err
	}
	if err := os.WriteFile(opts.output, raw.Bytes(), 0o644); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s@%s\n", opts.output, opts.name, digest)
	return nil
}

// writeDockerManifest adds what a docker engine with its classic image store asks for. That store
// holds one architecture by name: the first one.
func writeDockerManifest(dir string, name reference.NamedTagged, index v1.ImageIndex) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	m, err := image.Manifest()
	if err != nil {
		return err
	}
	blob := func(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blob(m.Config.Digest), RepoTags: []string{reference.FamiliarString(name)}}
	for _, layer := range m.Layers {
		entry.Layers = append(entry.Layers, blob(layer.Digest))
	}
	raw, err := json.Marshal([]any{entry})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), raw, 0o644)
}

// rootFS is the file system of an image, as a tar file.
func rootFS(opts options, b binary) ([]byte, error) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	if err := tarFile(w, b.file, strings.TrimPrefix(entryPoint, "/"), 0o755, opts.date); err != nil {
		return nil, err
	}
	for _, name := range opts.files {
		err := filepath.WalkDir(name, func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir():
				return tarDirectory(w, filepath.ToSlash(file), opts.date)
			default:
				return tarFile(w, file, filepath.ToSlash(file), 0o644, opts.date)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return raw.Bytes(), w.Close()
}

// tarTree writes what is below a directory, in the order of names.
func tarTree(to io.Writer, dir string, date time.Time) error {
	w := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, err := filepath.Rel(dir, file)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return tarDirectory(w, filepath.ToSlash(name), date)
		default:
			return tarFile(w, file, filepath.ToSlash(name), 0o644, date)
		}
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func tarDirectory(w *tar.Writer, name string, date time.Time) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: date})
}

func tarFile(w *tar.Writer, file, name string, mode int64, date time.Time) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: date}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}
