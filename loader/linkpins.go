// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// linkPins are the pins of devices' links in one directory. To list the directory takes time in proportion to the
// node's devices, so it is listed once. The process that holds the directory keeps linkPins up to date: no other one
// makes pins there. A pin that was removed by hand stays known until the next list, so the link of each pin
// may be gone.
type linkPins struct {
	dir  pinDir
	pins []devicePin
}

// devicePin is the pin of a device's link, and what its name contains.
type devicePin struct {
	pin     string
	hook    hook
	device  string // as legal has it
	ifindex int
}

// pinOf names the link of a hook on a device. The index makes the name unique; the device's name is for readers.
func pinOf(h hook, name string, ifindex int) devicePin {
	name = legal(name)
	return devicePin{fmt.Sprintf("%s-%s-%d", h.name, name, ifindex), h, name, ifindex}
}

// linkPins lists the directory of links.
func (p pinDir) linkPins() (*linkPins, error) {
	l := &linkPins{dir: p}
	names, err := p.linkNames()
	l.take(names)
	return l, err
}

// linkNames lists the directory of links.
func (p pinDir) linkNames() ([]string, error) {
	names, err := listDir(p.links())
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("list links: run as root: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return names, nil
}

// take replaces all pins by those of a new list.
func (l *linkPins) take(names []string) {
	l.pins = nil
	for _, name := range names {
		for _, h := range deviceHooks {
			if pin, ok := h.parse(name); ok && !strings.HasSuffix(name, stagedSuffix) {
				l.pins = append(l.pins, pin)
			}
		}
	}
}

// of returns the pins of a device, of one hook.
func (l *linkPins) of(h hook, ifindex int) []devicePin {
	return l.where(func(pin devicePin) bool { return pin.hook == h && pin.ifindex == ifindex })
}

func (l *linkPins) where(match func(devicePin) bool) (pins []devicePin) {
	for _, pin := range l.pins {
		if match(pin) {
			pins = append(pins, pin)
		}
	}
	return pins
}

func (l *linkPins) path(pin devicePin) string { return l.dir.linkPin(pin.pin) }

// put pins a link, in place of any other one under that name.
func (l *linkPins) put(attached link.Link, pin devicePin) error {
	if err := replacePin(attached, l.path(pin)); err != nil {
		return err
	}
	if !slices.Contains(l.pins, pin) {
		l.pins = append(l.pins, pin)
	}
	return nil
}

// remove detaches a link, and removes its pin.
func (l *linkPins) remove(attached link.Link, pin devicePin) error {
	if err := removeLink(attached, l.path(pin)); err != nil {
		return err
	}
	l.forget(pin)
	return nil
}

// detach removes a link by its pin, which may be gone.
func (l *linkPins) detach(pin devicePin) error {
	if err := detachPin(l.path(pin)); err != nil {
		return err
	}
	l.forget(pin)
	return nil
}

func (l *linkPins) forget(pin devicePin) {
	l.pins = slices.DeleteFunc(l.pins, func(p devicePin) bool { return p == pin })
}

// removeLink detaches at once. Removing the pin alone would detach some time later.
func removeLink(l link.Link, path string) error {
	if err := l.Detach(); err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin link: %w", err)
	}
	return nil
}

func detachPin(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	return removeLink(l, path)
}
