// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hook is a place of a device where a link attaches a program.
type hook struct {
	name   string // what its pins' names begin with
	attach ebpf.AttachType
}

// pin names the hook's link on a device. The index makes the name unique; the device's name is for
// readers.
func (h hook) pin(dev *netlink.LinkAttrs) string {
	return fmt.Sprintf("%s-%s-%d", h.name, legal(dev.Name), dev.Index)
}

// devicePin is what a pin's name contains.
type devicePin struct {
	pin     string
	device  string
	ifindex int
}

func (h hook) parse(pin string) (devicePin, bool) {
	rest, ok := strings.CutPrefix(pin, h.name+"-")
	cut := strings.LastIndexByte(rest, '-')
	if !ok || cut < 0 {
		return devicePin{}, false
	}
	ifindex, err := strconv.Atoi(rest[cut+1:])
	return devicePin{pin, rest[:cut], ifindex}, err == nil
}

// pinsOf lists a hook's pins that match.
func (p pinDir) pinsOf(h hook, match func(devicePin) bool) ([]devicePin, error) {
	names, err := p.linkNames()
	return h.among(names, match), err
}

// linkNames lists the directory of links. This takes time in proportion to the devices.
func (p pinDir) linkNames() ([]string, error) {
	names, err := listDir(p.links())
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return names, nil
}

// among picks a hook's pins that match.
func (h hook) among(names []string, match func(devicePin) bool) (pins []devicePin) {
	for _, name := range names {
		if pin, ok := h.parse(name); ok && match(pin) {
			pins = append(pins, pin)
		}
	}
	return pins
}

// attach puts the program into the link that an earlier process pinned. Without one it makes a
// link, and isNew is true. names are those in the directory of links.
func (d *Datapath) attach(h hook, names []string, dev netlink.Link, program *ebpf.Program,
	create func() (link.Link, error)) (isNew bool, err error) {
	updated, err := d.update(h, names, dev, program)
	if updated || err != nil {
		return false, err
	}
	l, err := create()
	if err != nil {
		return false, err
	}
	defer l.Close() // the pin keeps it; without a pin it is gone
	return true, replacePin(l, d.pins.linkPin(h.pin(dev.Attrs())))
}

// update swaps the program inside the device's link, if it has one. It removes links that share
// only the index or only the name with the device: their own device is gone.
func (d *Datapath) update(h hook, names []string, dev netlink.Link, program *ebpf.Program) (bool, error) {
	attrs := dev.Attrs()
	pins := h.among(names, func(pin devicePin) bool {
		return pin.ifindex == attrs.Index || pin.device == legal(attrs.Name)
	})
	updated := false
	for _, pin := range pins {
		done, err := d.updatePin(h, dev, d.pins.linkPin(pin.pin), program)
		if err != nil {
			return false, err
		}
		updated = updated || done
	}
	return updated, nil
}

func (d *Datapath) updatePin(h hook, dev netlink.Link, path string, program *ebpf.Program) (bool, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	target, err := inspect(l)
	if err != nil {
		return false, err
	}
	if target.ifindex == dev.Attrs().Index && target.attachedTo(h, dev) {
		err = l.Update(program)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.ENOLINK) {
			return false, fmt.Errorf("replace the program of %s: %w", path, err)
		}
	} else if target.ifindex != 0 && target.ifindex != dev.Attrs().Index {
		return false, nil // the link of another device, which once had the same name
	}
	d.log.Infof("removing link %s: its device is gone, or another program detached it", path)
	return false, removeLink(l, path)
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

// detach removes a hook's link from a device, which may be gone.
func (d *Datapath) detach(h hook, ifindex int) error {
	pins, err := d.pins.pinsOf(h, func(pin devicePin) bool { return pin.ifindex == ifindex })
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if err := detachPin(d.pins.linkPin(pin.pin)); err != nil {
			return err
		}
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

// DetachDevice removes everything of waggle's from a device. The device need not exist any more.
func (d *Datapath) DetachDevice(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, h := range deviceHooks {
		errs = append(errs, d.detach(h, ifindex))
	}
	dev, err := device(ifindex)
	if err == nil {
		err = d.removeOldFilters(dev)
	} else if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// sweep removes the links of devices and cgroups that vanished while no agent ran, and links that a
// process did not live to put in force.
func (d *Datapath) sweep() {
	names, err := listDir(d.pins.links())
	if err != nil {
		d.log.Warnf("list links: %v", err)
		return
	}
	for _, name := range names {
		if err := sweepPin(d.pins.linkPin(name)); err != nil {
			d.log.Warnf("removing a stale link: %v", err)
		}
	}
}

func sweepPin(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	target, err := inspect(l)
	alive := target.ifindex != 0 || target.cgroup != 0
	if err != nil || alive && !strings.HasSuffix(path, stagedSuffix) {
		return err
	}
	return removeLink(l, path)
}
