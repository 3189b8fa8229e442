// SPDX-License-Identifier: Apache-2.0

package loader

import "github.com/cilium/ebpf"

// extraPrograms are the optional programs, by their names, or why the kernel refuses them.
type extraPrograms struct {
	loaded  map[string]*ebpf.Program
	refused map[string]error
}

// takeOptional takes the optional programs out of those that were loaded, and out of those that were refused.
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

// take hands out a program, for the caller to close.
func (e extraPrograms) take(name string) (*ebpf.Program, error) {
	program := e.loaded[name]
	delete(e.loaded, name)
	return program, e.refused[name]
}

func (e extraPrograms) close() { closeAll(e.loaded) }
