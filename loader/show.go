// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
)

// shown are the files of the pin directory that show a map as text when they are read.
var shown = map[string]string{"flows4": bpf.ShowProgram4, "flows6": bpf.ShowProgram6}

func (p pinDir) showPin(name string) string { return filepath.Join(string(p), name) }

// pinShown makes the files. Kernels without type information of their own can't have them: this
// error is not fatal.
func (d *Datapath) pinShown(from extraPrograms) error {
	var errs []error
	for name := range shown {
		if err := d.pinShow(from, name); err != nil {
			errs = append(errs, fmt.Errorf("the file %s, which shows flows (CONFIG_DEBUG_INFO_BTF): %w", d.pins.showPin(name), err))
		}
	}
	return errors.Join(errs...)
}

func (d *Datapath) pinShow(from extraPrograms, name string) error {
	program, err := from.take(shown[name])
	if err != nil {
		return err
	}
	defer program.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: program, Map: d.Map(name)})
	if err != nil {
		return err
	}
	return errors.Join(replacePin(iter, d.pins.showPin(name)), iter.Close())
}

// shown removes the files.
func (c *cleaner) shown() {
	for name := range shown {
		err := os.Remove(c.pins.showPin(name))
		if !errors.Is(err, os.ErrNotExist) {
			c.did("file "+name, err)
		}
	}
}
