// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Where the image has the command. The manifests in deploy/ give arguments only, so the entry point
// has to be it.
const entryPoint = "/waggle"

// machines are the architectures as an ELF file names them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// newIndex makes the index, whose images are in the order of the binaries.
func newIndex(opts options) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range opts.binaries {
		image, err := newImage(opts, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.file, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        runnable{image},
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: b.architecture}},
		})
	}
	annotated, ok := mutate.Annotations(index, opts.labels()).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("an annotated index is no index")
	}
	return annotated, nil
}

// runnable is an image that is listed without an artifact type. The library would list the type of its
// configuration, by which registries and runtimes distinguish artifacts from images.
type runnable struct{ v1.Image }

func (runnable) ArtifactType() (string, error) { return "", nil }

func newImage(opts options, b binary) (v1.Image, error) {
	if err := checkArchitecture(b); err != nil {
		return nil, err
	}
	raw, err := rootFS(opts, b)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: opts.date}
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make image"}})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", b.architecture, created
	file.Config = v1.Config{Entrypoint: []string{entryPoint}, Labels: opts.labels()}
	return mutate.ConfigFile(image, file)
}

func (o options) labels() map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":       "waggle",
		prefix + "description": "eBPF service load balancer for Linux nodes",
		prefix + "licenses":    "Apache-2.0 AND GPL-2.0-only",
		prefix + "source":      "https://github.com/waggle-lb/waggle",
		prefix + "version":     o.version,
		prefix + "revision":    o.revision,
		prefix + "created":     o.date.Format("2006-01-02T15:04:05Z"),
	}
}

// checkArchitecture refuses a binary that the image's nodes could not run: it is of another machine,
// or it wants a dynamic linker, which the image does not have.
func checkArchitecture(b binary) error {
	want, ok := machines[b.architecture]
	if !ok {
		return fmt.Errorf("unknown architecture %q", b.architecture)
	}
	f, err := elf.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Machine != want {
		return fmt.Errorf("is of %s, not of %s", f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("wants a dynamic linker")
		}
	}
	return nil
}
