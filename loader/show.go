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

// pinShown makes the files. Kernels without type information of themselves can't have them: the
// error is no reason to fail.
func (d *Datapath) pinShown() error {
	coll, err := loadOptional(d.collection.Maps, bpf.ShowProgram4, bpf.ShowProgram6)
	if err != nil {
		return fmt.Errorf("%s and others can't show the flows (CONFIG_DEBUG_INFO_BTF): %w", d.pins.showPin("flows4"), err)
	}
	defer coll.Close()
	var errs []error
	for name, program := range shown {
		iter, err := link.AttachIter(link.IterOptions{Program: coll.Programs[program], Map: d.Map(name)})
		if err == nil {
			err = errors.Join(replacePin(iter, d.pins.showPin(name)), iter.Close())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the file %s, which shows flows: %w", d.pins.showPin(name), err))
		}
	}
	return errors.Join(errs...)
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
