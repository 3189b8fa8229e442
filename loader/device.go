// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// allDevices lists the devices of this network namespace.
func allDevices() ([]netlink.Link, error) {
	devices, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return devices, nil
}

// device returns a network device, or an error that is unix.ENODEV.
func device(ifindex int) (netlink.Link, error) {
	dev, err := netlink.LinkByIndex(ifindex)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil, fmt.Errorf("device %d: %w", ifindex, unix.ENODEV)
	}
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", ifindex, err)
	}
	return dev, nil
}

// explain names the device in an error. If the device vanished meanwhile, the error is unix.ENODEV:
// each hook has another errno for that.
func explain(dev netlink.Link, what string, err error) error {
	if err == nil {
		return nil
	}
	attrs := dev.Attrs()
	if _, gone := device(attrs.Index); errors.Is(gone, unix.ENODEV) {
		err = gone
	}
	return fmt.Errorf("%s %s: %w", attrs.Name, what, err)
}
