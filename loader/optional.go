// SPDX-License-Identifier: Apache-2.0

package loader

import "github.com/cilium/ebpf"

// extraPrograms are the optional programs by their names, with the kernel's reasons to refuse the others.
type extraPrograms struct {
	loaded  map[string]*ebpf.Program
	refused map[string]error
}

// takeOptional moves the optional programs out of the loaded and the refused ones.
func takeOptional(loaded map[string]*ebpf.Program, refused map[string]error) extraPrograms {
	extra := extraPrograms{map[string]*ebpf.Program{}, map[string]error{}}
	for _, name := range optional {
		if program := loaded[name]; program != nil {
			extra.loaded[name] = program
		}
		if err := refused[name]; err != nil {
			extra.refused[name] = err
		}
		delete(loaded, name)
		delete(refused, name)
	}
	return extra
}

// take returns a program, which the caller closes.
func (e extraPrograms) take(name string) (*ebpf.Program, error) {
	program := e.loaded[name]
	delete(e.loaded, name)
	return program, e.refused[name]
}

func (e extraPrograms) close() { closeAll(e.loaded) }
