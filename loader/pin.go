// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pinDir is the directory that everything is pinned in.
type pinDir string

func (p pinDir) maps() string               { return filepath.Join(string(p), "maps") }
func (p pinDir) links() string              { return filepath.Join(string(p), "links") }
func (p pinDir) programs() string           { return filepath.Join(string(p), "programs") }
func (p pinDir) mapPin(name string) string  { return filepath.Join(p.maps(), name) }
func (p pinDir) linkPin(name string) string { return filepath.Join(p.links(), name) }
func (p pinDir) programPin(name string) string {
	return filepath.Join(p.programs(), name)
}

// create makes the directories. It fails unless they are on a bpf file system.
func (p pinDir) create() error {
	if err := checkBPFFS(string(p)); err != nil {
		return err
	}
	for _, dir := range []string{p.maps(), p.links(), p.programs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create the pin directory: %w", err)
		}
	}
	return nil
}

// checkBPFFS checks the path, or as much of it as exists.
func checkBPFFS(path string) error {
	var stat unix.Statfs_t
	existing := path
	err := unix.Statfs(existing, &stat)
	for errors.Is(err, unix.ENOENT) && existing != "/" {
		existing = filepath.Dir(existing)
		err = unix.Statfs(existing, &stat)
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("pin directory %s: run as root: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("pin directory %s: %w", path, err)
	}
	if stat.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pin directory %s is not on a bpf file system: choose one below /sys/fs/bpf, "+
			"and if nothing is mounted there: mount -t bpf bpf /sys/fs/bpf", path)
	}
	return nil
}

type pinner interface{ Pin(path string) error }

// stagedSuffix marks pins that are not in force yet. No name of ours ends with it.
const stagedSuffix = "-new"

// staging puts all pins in force together: each is made under another name first, so that every
// step that can fail comes before anything is replaced.
type staging []string

func (s *staging) add(object pinner, path string) error {
	staged := path + stagedSuffix
	// A pin that a killed process has left.
	if err := os.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the leftover %s: %w", staged, err)
	}
	if err := object.Pin(staged); err != nil {
		return fmt.Errorf("pin %s: %w", staged, err)
	}
	*s = append(*s, path)
	return nil
}

func (s *staging) commit() error {
	for len(*s) > 0 {
		path := (*s)[0]
		if err := os.Rename(path+stagedSuffix, path); err != nil {
			return fmt.Errorf("replace the pin %s: %w", path, err)
		}
		*s = (*s)[1:]
	}
	return nil
}

// abort removes the pins that were not committed.
func (s *staging) abort() {
	for _, path := range *s {
		os.Remove(path + stagedSuffix)
	}
}

// replacePin pins object at path, in place of any pin there.
func replacePin(object pinner, path string) error {
	var s staging
	defer s.abort()
	if err := s.add(object, path); err != nil {
		return err
	}
	return s.commit()
}

// pinAll pins the maps that are new, and the programs. A map that a new one replaces, and that the
// agent is to convert, gets another pin first.
func (d *Datapath) pinAll(names []string, found foundMaps, layouts layoutTable) error {
	var s staging
	defer s.abort()
	if err := s.addOldFlows(d.pins, found.old); err != nil {
		return err
	}
	for _, name := range names {
		if found.pinned[name] != nil {
			continue
		}
		if err := layouts.set(d.Map(name), layoutOf(name).version); err != nil {
			return err
		}
		if err := s.add(d.Map(name), d.pins.mapPin(name)); err != nil {
			return err
		}
	}
	if err := s.addPrograms(d.pins, d.collection.Programs); err != nil {
		return err
	}
	if err := s.commit(); err != nil {
		return err
	}
	if err := unpinOthers(d.pins.programs(), func(name string) bool { return d.Program(name) != nil }); err != nil {
		return err
	}
	return unpinOthers(d.pins.maps(), func(name string) bool {
		return name == layoutsPin || isOldFlows(name) || slices.Contains(names, name)
	})
}

func (s *staging) addPrograms(pins pinDir, programs map[string]*ebpf.Program) error {
	for name, program := range programs {
		if err := s.add(program, pins.programPin(name)); err != nil {
			return err
		}
	}
	return nil
}

// pinPrograms pins programs that were loaded later.
func (d *Datapath) pinPrograms(programs map[string]*ebpf.Program) error {
	var s staging
	defer s.abort()
	if err := s.addPrograms(d.pins, programs); err != nil {
		return err
	}
	return s.commit()
}

// unpinOthers removes pins that only another version had, and pins of programs that are not loaded
// yet.
func unpinOthers(dir string, ours func(name string) bool) error {
	names, err := listDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if ours(name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("unpin what another version had: %w", err)
		}
	}
	return nil
}

// listDir returns the names in a directory, none if there is no such directory.
func listDir(dir string) ([]string, error) {
	entries, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer entries.Close()
	names, err := entries.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// legal makes a name that a bpf file system takes: it reserves the dot for itself.
func legal(name string) string { return strings.ReplaceAll(name, ".", "_") }
