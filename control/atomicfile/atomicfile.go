// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files in one step: a reader, also after a crash or a loss of power,
// finds the old contents or the new ones. A file that is written here, and a directory that is made
// here, belongs to the process's own user and group and has the mode that is asked for, whatever the
// umask is, and whatever the directory above passes on.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Temp is the name that the new contents of a file have until they are complete. One process at a
// time may write a file.
func Temp(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
}

// Write replaces a file, or makes it. Its directory must exist.
func Write(path string, data []byte, mode fs.FileMode) error {
	if err := writeTemp(Temp(path), data, mode); err != nil {
		return errors.Join(err, removed(Temp(path)))
	}
	if err := os.Rename(Temp(path), path); err != nil {
		return errors.Join(err, removed(Temp(path)))
	}
	return syncDir(filepath.Dir(path))
}

// writeTemp makes the file anew: a process that was killed may have left one, with any mode.
func writeTemp(path string, data []byte, mode fs.FileMode) error {
	if err := removed(path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Chown(os.Geteuid(), os.Getegid()), file.Chmod(mode), file.Sync(), file.Close())
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes a rename outlive a loss of power.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// dirMode is that of directories above the one that is asked for.
const dirMode = 0o755

// MakeDir makes a directory, and missing directories above it, which all users may look into. One
// that exists keeps its owner and its mode.
func MakeDir(path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeDir(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another process was faster
		}
		return err
	}
	return errors.Join(os.Chown(path, os.Geteuid(), os.Getegid()), os.Chmod(path, mode))
}
