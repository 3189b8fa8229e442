// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	settleTime = Patient(5 * time.Second)  // for the kernel to finish what it does asynchronously
	startTime  = Patient(20 * time.Second) // for a process to start, on a loaded machine
)

// await blocks until check returns true. It checks again whenever the kernel
// announces a change of a device, an IPv6 address or an IPv6 route.
func (ns *namespace) await(what string, check func() (bool, error)) error {
	return ns.do(func() error {
		events, err := nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		defer events.Close()
		for deadline := time.Now().Add(settleTime); ; {
			done, err := check()
			if done || err != nil {
				return err
			}
			left := time.Until(deadline)
			if left <= 0 {
				return fmt.Errorf("%s: not within %s", what, settleTime)
			}
			if err := nextEvent(events, left); err != nil {
				return fmt.Errorf("wait for %s: %w", what, err)
			}
		}
	})
}

func nextEvent(events *nl.NetlinkSocket, timeout time.Duration) error {
	tv := unix.NsecToTimeval(timeout.Nanoseconds() + int64(time.Microsecond))
	if err := events.SetReceiveTimeout(&tv); err != nil {
		return err
	}
	_, _, err := events.Receive()
	// ENOBUFS: events were lost, so something happened.
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}
