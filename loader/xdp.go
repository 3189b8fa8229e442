// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var hookXDP = hook{"xdp", ebpf.AttachXDP}

const xdpProgram = "waggle_xdp"

// AttachXDP attaches the XDP program in the driver. It never attaches in generic mode, which is
// slower than tc alone. The error gives the driver's reason. A device with another XDP program keeps
// that. The first call loads the program. If the kernel refuses it, AttachXDP also removes the XDP
// program that an earlier process has attached.
func (d *Datapath) AttachXDP(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := device(ifindex)
	if err != nil {
		return err
	}
	if err := d.need(xdpProgram); err != nil {
		return explain(dev, "xdp", errors.Join(err, d.detach(hookXDP, ifindex)))
	}
	_, err = d.attach(hookXDP, dev, d.Program(xdpProgram), func() (link.Link, error) {
		return d.createXDP(dev)
	})
	return explain(dev, "xdp", err)
}

func (d *Datapath) createXDP(dev netlink.Link) (link.Link, error) {
	if xdp := dev.Attrs().Xdp; xdp != nil && xdp.Attached {
		return nil, fmt.Errorf("the device runs %s already: detach it (ip link set dev %s xdp off), "+
			"or leave XDP on this device to it: %w", programName(xdp.ProgId), dev.Attrs().Name, unix.EBUSY)
	}
	program := d.Program(xdpProgram)
	l, err := link.AttachXDP(link.XDPOptions{
		Program:   program,
		Interface: dev.Attrs().Index,
		Flags:     link.XDPDriverMode,
	})
	if err == nil {
		return l, nil
	}
	if reason := driverReason(dev, program); reason != nil {
		return nil, fmt.Errorf("the driver refuses (tc does the work on this device): %w", reason)
	}
	return nil, err
}

// programName describes a program that is not ours.
func programName(id uint32) string {
	if name := nameOf(ebpf.ProgramID(id)); name != "" {
		return fmt.Sprintf("the XDP program %q (id %d)", name, id)
	}
	return fmt.Sprintf("another XDP program (id %d)", id)
}

// From linux/if_link.h.
const (
	xdpFlagUpdateIfNoExist = 1
	xdpFlagDriverMode      = 4
)

// driverReason repeats a failed attachment by netlink, which passes on the driver's own message;
// creating a link returns an errno only.
func driverReason(dev netlink.Link, program *ebpf.Program) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer socket.Close()
	if err := socket.SetExtAck(true); err != nil {
		return nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(dev.Attrs().Index)
	req.AddData(msg)
	xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(nl.IFLA_XDP_FD, binary.NativeEndian.AppendUint32(nil, uint32(program.FD())))
	xdp.AddRtAttr(nl.IFLA_XDP_FLAGS,
		binary.NativeEndian.AppendUint32(nil, xdpFlagUpdateIfNoExist|xdpFlagDriverMode))
	req.AddData(xdp)
	if _, err = req.Execute(unix.NETLINK_ROUTE, 0); err == nil {
		// The attachment works now. But waggle needs a link, and the caller may retry.
		err = netlink.LinkSetXdpFdWithFlags(dev, -1, xdpFlagDriverMode)
	}
	return err
}

// DetachXDP removes the XDP program from a device and leaves tc.
func (d *Datapath) DetachXDP(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detach(hookXDP, ifindex)
}
