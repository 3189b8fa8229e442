// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrServed is returned for a device that another waggle serves, with another pin directory: each
// would translate packets that the other has translated already.
var ErrServed = errors.New("another waggle serves the device")

// CheckDevices looks for another waggle on the devices of this network namespace. It does not look at
// devices for which skip returns true. The error names the device and the other pin directory.
func CheckDevices(pinDirectory string, skip func(device string) bool) error {
	dir, err := cleanPinDir(cmp.Or(pinDirectory, DefaultPinDir))
	if err != nil {
		return err
	}
	devices, err := allDevices()
	if err != nil {
		return err
	}
	links, err := pinDir(dir).linkPins()
	if err != nil {
		return err
	}
	for _, dev := range devices {
		if skip(dev.Attrs().Name) {
			continue
		}
		if err := links.checkOthers(dev); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// checkOthers fails if another waggle serves a device.
func (l *linkPins) checkOthers(dev netlink.Link) error {
	other, err := l.otherOn(dev)
	if err != nil || other == "" {
		return err
	}
	return fmt.Errorf("device %s: %w, with the pin directory %s: stop its agent and remove what it has left "+
		"(waggle cleanup --pin-dir %s), or give both the same --pin-dir", dev.Attrs().Name, ErrServed, other, other)
}

// otherOn returns the pin directory of another waggle that serves a device, "" if there is none.
func (l *linkPins) otherOn(dev netlink.Link) (string, error) {
	filters, err := clsactFilters(dev)
	if err != nil {
		return "", explain(dev, "tc", err)
	}
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok {
			if dir := filterOwner(bpf.Name); dir != "" && dir != l.dir {
				return string(dir), nil
			}
		}
	}
	if !l.hasForeign(dev) {
		return "", nil
	}
	dirs, err := l.dir.otherDirs()
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		others, err := dir.linkPins()
		if err == nil && others.isOn(dev) { // else it has just been removed
			return string(dir), nil
		}
	}
	return "", nil
}

// filterOwner is the pin directory in the name of a filter of waggle's.
func filterOwner(name string) pinDir {
	program, dir, _ := strings.Cut(name, ":")
	if !strings.HasPrefix(program, "waggle_") {
		return ""
	}
	return pinDir(dir)
}

// hasForeign reports whether a device has programs that no link of ours has attached.
func (l *linkPins) hasForeign(dev netlink.Link) bool {
	for _, h := range []hook{hookTCXIngress, hookTCXEgress} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: h.attach})
		if err != nil || len(result.Programs) == 0 {
			continue // the kernel has no TCX or, as on a new device, nothing runs there
		}
		own := map[link.ID]bool{}
		for _, t := range l.linksOn(dev, h) {
			own[t.link] = true
		}
		if slices.ContainsFunc(result.Programs, func(r link.AttachedProgram) bool {
			id, known := r.LinkID()
			return !known || !own[id]
		}) {
			return true
		}
	}
	xdp := dev.Attrs().Xdp
	return xdp != nil && xdp.Attached && len(l.linksOn(dev, hookXDP)) == 0
}

// isOn reports whether one of the links is attached to the device.
func (l *linkPins) isOn(dev netlink.Link) bool {
	return slices.ContainsFunc(deviceHooks, func(h hook) bool { return len(l.linksOn(dev, h)) > 0 })
}

// linksOn returns the links of a hook that are attached to the device.
func (l *linkPins) linksOn(dev netlink.Link, h hook) (on []target) {
	for _, pin := range l.of(h, dev.Attrs().Index) {
		pinned, err := link.LoadPinnedLink(l.path(pin), nil)
		if err != nil {
			continue
		}
		t, err := inspect(pinned)
		pinned.Close()
		if err == nil && t.ifindex == dev.Attrs().Index && t.attachedTo(h, dev) {
			on = append(on, t)
		}
	}
	return on
}

// otherDirs lists the pin directories of other waggles, in all bpf file systems that are mounted. Our
// own directory may appear at several places.
func (p pinDir) otherDirs() (dirs []pinDir, err error) {
	mounts, err := bpfMounts()
	if err != nil {
		return nil, err
	}
	own, _ := os.Stat(string(p)) // it may not exist yet
	for _, mount := range mounts {
		_ = filepath.WalkDir(mount, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return nil // may be another program's directory: what can't be read is not ours
			}
			dir := pinDir(path)
			if _, err := os.Lstat(dir.programPin("waggle_ingress")); err != nil {
				return nil
			}
			if here, err := os.Stat(path); err == nil && !os.SameFile(own, here) {
				dirs = append(dirs, dir)
			}
			return fs.SkipDir
		})
	}
	return dirs, nil
}

func bpfMounts() (paths []string, err error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "bpf" {
			paths = append(paths, fields[1])
		}
	}
	return paths, lines.Err()
}
