// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns"
	"github.com/waggle-lb/waggle/control/status"
)

// A veth device may hand over a packet whose checksum is left to the device that it leaves by. To XDP
// this packet has a wrong checksum, and keeps it when XDP sends it on. So XDP on a veth device requires
// a peer that fills checksums in (`ethtool -K PEER tx off`).

// leavesChecksums is the beginning of the reason why a veth device has no XDP.
const leavesChecksums = "its peer leaves checksums to the device"

// vethWithoutXDP returns the reason why a veth device should not run XDP, empty if it should. If the
// peer can't be inspected, it only notes what the administrator has to check.
func (d *Devices) vethWithoutXDP(link netlink.Link) string {
	attrs := link.Attrs()
	peer, leaves, err := peerChecksums(link)
	delete(d.unseen, attrs.Index)
	if err != nil {
		if d.unseen == nil {
			d.unseen = map[int]string{}
		}
		d.unseen[attrs.Index] = fmt.Sprintf("device %s, xdp: its peer can't be inspected (%v): if the peer leaves checksums to the device, "+
			"packets that XDP sends on are lost (ethtool -K PEER tx off, at the other end)", attrs.Name, err)
		return ""
	}
	if leaves {
		return fmt.Sprintf("%s, and packets that XDP sends on would be lost: ethtool -K %s tx off, at the other end", leavesChecksums, peer)
	}
	return ""
}

// Notices lists what is good to know about devices.
func (d *Devices) Notices() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for index, notice := range d.unseen {
		if d.status[index].XDP == status.XDPNative {
			all = append(all, notice)
		}
	}
	slices.Sort(all)
	return all
}

// lookAtPeers forgets the veth devices whose peer has changed its setting: the next Sync attaches anew.
// The kernel sends no event for this setting.
func (d *Devices) lookAtPeers() {
	for index, s := range d.status {
		refused := strings.HasPrefix(s.XDP, leavesChecksums)
		if d.opts.XDP != XDPAlways || s.XDP != status.XDPNative && !refused {
			continue
		}
		link, err := netlink.LinkByIndex(index)
		if err != nil || link.Type() != "veth" {
			continue
		}
		if why := d.vethWithoutXDP(link); (why != "") != refused {
			d.log.WithField("device", s.Name).Info("its peer has changed whether it leaves checksums to the device")
			delete(d.status, index)
		}
	}
}

// peerChecksums reports whether the other end of a veth device leaves checksums to the device. It fails
// if that end is in a network namespace that can't be found or entered.
func peerChecksums(link netlink.Link) (peer string, leaves bool, err error) {
	attrs := link.Attrs()
	ask := func() error {
		other, err := netlink.LinkByIndex(attrs.ParentIndex)
		if err != nil {
			return err
		}
		peer = other.Attrs().Name
		leaves, err = txChecksum(peer)
		return err
	}
	if attrs.NetNsID < 0 {
		err = ask()
		return peer, leaves, err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE) // the handle stays in our namespace
	if err != nil {
		return "", false, err
	}
	defer node.Close()
	found := false
	filter := &netns.Filter{
		Known:  func(string) bool { return false },
		Enough: func() bool { return found },
		Wanted: func(_ string, ns *os.File) bool {
			id, err := node.GetNetNsIdByFd(int(ns.Fd()))
			return err == nil && id == attrs.NetNsID
		},
	}
	err = netns.Each(filter, func() error {
		found = true
		return ask()
	})
	if err == nil && !found {
		err = errors.New("no process is in its network namespace")
	}
	return peer, leaves, err
}

// ethtoolValue is struct ethtool_value (linux/ethtool.h).
type ethtoolValue struct{ command, data uint32 }

// ethtoolRequest is struct ifreq with its union used as a pointer (linux/if.h).
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// txChecksum reports whether a device of the calling thread's namespace accepts packets whose checksums
// are still to be filled in.
func txChecksum(device string) (bool, error) {
	value := ethtoolValue{command: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(device, &value); err != nil {
		return false, fmt.Errorf("device %s: asking for its checksum offload: %w", device, err)
	}
	return value.data != 0, nil
}

func ethtool(device string, value *ethtoolValue) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := &ethtoolRequest{data: unsafe.Pointer(value)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return errno
	}
	return nil
}
