// SPDX-License-Identifier: Apache-2.0

// Command image writes the container image as an OCI archive: one index with one image per
// architecture. It needs no container engine and no network. Equal inputs make equal archives,
// bit by bit.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// options are what an archive is made of.
type options struct {
	output   string
	name     string // of the image, with its tag
	version  string
	revision string
	date     time.Time // of every file, and of the image
	files    []string  // copied into each image below the same path
	binaries []binary
}

// binary is the command for one architecture.
type binary struct{ architecture, file string }

func main() {
	opts, err := parse(os.Args[1:])
	if err == nil {
		err = write(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image: "+err.Error())
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var opts options
	var epoch int64
	fs := flag.NewFlagSet("image", flag.ExitOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: image [flags] ARCHITECTURE=BINARY...")
		fs.PrintDefaults()
	}
	fs.StringVar(&opts.output, "output", "", "file to write the archive to")
	fs.StringVar(&opts.name, "name", "", "name of the image, with a tag")
	fs.StringVar(&opts.version, "version", "", "version, for the label")
	fs.StringVar(&opts.revision, "revision", "", "commit, for the label")
	fs.Int64Var(&epoch, "date", 0, "date of files and image, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	fs.Func("file", "`file` or directory that each image has below the same path", func(name string) error {
		opts.files = append(opts.files, name)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return opts, err
	}
	opts.date = time.Unix(epoch, 0).UTC()
	for _, arg := range fs.Args() {
		architecture, file, ok := strings.Cut(arg, "=")
		if !ok || architecture == "" || file == "" {
			return opts, fmt.Errorf("%s: want ARCHITECTURE=BINARY", arg)
		}
		opts.binaries = append(opts.binaries, binary{architecture, file})
	}
	switch {
	case opts.output == "":
		return opts, fmt.Errorf("-output is missing")
	case opts.name == "":
		return opts, fmt.Errorf("-name is missing")
	case len(opts.binaries) == 0:
		return opts, fmt.Errorf("no ARCHITECTURE=BINARY is given")
	}
	return opts, nil
}
