// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DisableTxOffload makes a device of the calling thread's network namespace send frames as XDP at the other end needs
// them: with complete checksums, and within the MTU.
func DisableTxOffload(ifname string) error {
	for _, command := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		if err := setEthtool(ifname, command, 0); err != nil {
			return err
		}
	}
	return nil
}

// SetGRO switches a device's generic receive offload. With it, a veth also accepts frames that XDP redirects to its
// peer.
func (h *Host) SetGRO(ifname string, on bool) error {
	var value uint32
	if on {
		value = 1
	}
	return h.ns.do(func() error { return setEthtool(ifname, unix.ETHTOOL_SGRO, value) })
}

type ethtoolValue struct{ command, data uint32 }

// ethtoolRequest is struct ifreq with its union used as a pointer.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

func setEthtool(ifname string, command, data uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := &ethtoolValue{command, data}
	request := &ethtoolRequest{data: unsafe.Pointer(value)}
	copy(request.name[:unix.IFNAMSIZ-1], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return fmt.Errorf("ethtool setting %#x of %s to %d: %w", command, ifname, data, errno)
	}
	return nil
}
