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

// pin is the pin of the hook's link on a device.
func (h hook) pin(dev *netlink.LinkAttrs) devicePin { return pinOf(h, dev.Name, dev.Index) }

func (h hook) parse(pin string) (devicePin, bool) {
	rest, ok := strings.CutPrefix(pin, h.name+"-")
	cut := strings.LastIndexByte(rest, '-')
	if !ok || cut < 0 {
		return devicePin{}, false
	}
	ifindex, err := strconv.Atoi(rest[cut+1:])
	return devicePin{pin, h, rest[:cut], ifindex}, err == nil
}

// attach puts the program into the link that an earlier process pinned. Without one it makes a link, and isNew is
// true.
func (d *Datapath) attach(h hook, dev netlink.Link, program *ebpf.Program, create func() (link.Link, error)) (isNew bool, err error) {
	updated, err := d.update(h, dev, program)
	if updated || err != nil {
		return false, err
	}
	l, err := create()
	if err != nil {
		return false, err
	}
	defer l.Close() // the pin keeps it; without a pin it is gone
	return true, d.links.put(l, h.pin(dev.Attrs()))
}

// update swaps the program inside the device's link, if it has one. It removes links that share
// only the index or only the name with the device: their own device is gone.
func (d *Datapath) update(h hook, dev netlink.Link, program *ebpf.Program) (bool, error) {
	want := h.pin(dev.Attrs())
	pins := d.links.where(func(pin devicePin) bool {
		return pin.hook == h && (pin.ifindex == want.ifindex || pin.device == want.device)
	})
	updated := false
	for _, pin := range pins {
		done, err := d.updatePin(dev, pin, program)
		if err != nil {
			return false, err
		}
		updated = updated || done
	}
	return updated, nil
}

func (d *Datapath) updatePin(dev netlink.Link, pin devicePin, program *ebpf.Program) (bool, error) {
	path := d.links.path(pin)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		d.links.forget(pin) // another program has removed it
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	target, err := inspect(l)
	if err != nil {
		return false, err
	}
	if target.ifindex == dev.Attrs().Index && target.attachedTo(pin.hook, dev) {
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
	return false, d.links.remove(l, pin)
}

// detach removes a hook's link from a device, which may be gone.
func (d *Datapath) detach(h hook, ifindex int) error {
	for _, pin := range d.links.of(h, ifindex) {
		if err := d.links.detach(pin); err != nil {
			return err
		}
	}
	return nil
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
// process did not live to put in force. It finds out which there are.
func (d *Datapath) sweep() error {
	names, err := d.pins.linkNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := sweepPin(d.pins.linkPin(name)); err != nil {
			d.log.Warnf("removing a stale link: %v", err)
		}
	}
	d.links, err = d.pins.linkPins()
	return err
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
