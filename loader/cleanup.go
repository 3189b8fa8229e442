// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Cleanup detaches, unpins and removes everything in a pin directory, and waggle's clsact filters
// on the devices of this network namespace. Connections through the node break. It refuses with
// ErrHeld while an agent runs. It does as much as it can, and may be repeated.
func Cleanup(pinDirectory string, log *logrus.Entry) (removed []string, err error) {
	if log == nil {
		log = logrus.NewEntry(logrus.StandardLogger())
	}
	dir, err := cleanPinDir(pinDirectory)
	if err != nil {
		return nil, err
	}
	c := cleaner{pins: pinDir(dir), log: log}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		c.filters()
		return c.removed, errors.Join(c.errs...)
	}
	if err := checkBPFFS(dir); err != nil { // else it would remove files of other programs
		return nil, err
	}
	lock, err := c.pins.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	c.links()
	c.filters()
	c.shown()
	c.unpin("program", c.pins.programs())
	c.unpin("map", c.pins.maps())
	c.directories()
	return c.removed, errors.Join(c.errs...)
}

type cleaner struct {
	pins    pinDir
	log     *logrus.Entry
	removed []string
	errs    []error
}

// did notes what was removed, or why it was not.
func (c *cleaner) did(what string, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("remove the %s: %w", what, err))
		return
	}
	c.log.Infof("removed the %s", what)
	c.removed = append(c.removed, what)
}

// links removes the socket programs first, and of these first the ones that rewrite addresses.
func (c *cleaner) links() {
	names, err := listDir(c.pins.links())
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("list links: %w", err))
	}
	slices.SortStableFunc(names, func(a, b string) int { return detachOrder(a) - detachOrder(b) })
	for _, name := range names {
		path := c.pins.linkPin(name)
		err := detachPin(path)
		if err != nil { // the pin may be no link at all, but it is in the directory of links
			c.log.Warn(err)
			err = os.Remove(path)
		}
		c.did("link "+name, err)
	}
}

func detachOrder(pin string) int {
	for i, h := range cgroupHooks {
		if h.pin() == strings.TrimSuffix(pin, stagedSuffix) {
			return -i
		}
	}
	return 1
}

func (c *cleaner) filters() {
	devices, err := allDevices()
	if err != nil {
		c.errs = append(c.errs, err)
	}
	for _, dev := range devices {
		removed, err := removeFilters(dev, c.pins)
		for _, what := range removed {
			c.did(what, nil)
		}
		if err = explain(dev, "tc", err); err != nil && !errors.Is(err, unix.ENODEV) {
			c.errs = append(c.errs, err)
		}
	}
}

func (c *cleaner) unpin(kind, dir string) {
	names, err := listDir(dir)
	if err != nil {
		c.errs = append(c.errs, err)
	}
	for _, name := range names {
		c.did(kind+" "+name, os.Remove(filepath.Join(dir, name)))
	}
}

// directories removes only waggle's own directories. A foreign file among the pins keeps its
// directory, and is named.
func (c *cleaner) directories() {
	for _, dir := range []string{c.pins.links(), c.pins.programs(), c.pins.maps(), string(c.pins)} {
		err := os.Remove(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			c.did("directory "+dir, err)
		}
	}
}
