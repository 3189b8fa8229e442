// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// What programs return.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4

	tcNext     = 1<<32 - 1 // TC_ACT_UNSPEC
	tcShot     = 2
	tcRedirect = 7
)

// fate is what becomes of the first packet of a connection.
type fate string

const (
	leftAlone fate = "left alone"
	refused   fate = "refused"
	dropped   fate = "dropped"
	led       fate = "led to an endpoint"
)

// end is where a connection ends.
type end struct {
	fate
	endpoint netip.AddrPort // if it is led to one
	source   netip.Addr     // that the endpoint sees
}

// sendFromOutside has the uplink's programs see a client's packet. Without XDP, as on a device that
// can't have it, tc does all.
func (n *node) sendFromOutside(t tuple, xdp bool) (end, error) {
	frame, err := openingFrame(t, routerMAC, n.uplink.Attrs().HardwareAddr)
	if err != nil {
		return end{}, err
	}
	if xdp {
		// struct xdp_md
		context := struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{
			dataEnd: uint32(len(frame)), ingress: uint32(n.uplink.Attrs().Index),
		}
		action, out, err := n.run("waggle_xdp", frame, context)
		switch {
		case err != nil:
			return end{}, err
		case action == xdpDrop:
			return end{fate: dropped}, nil
		case action == xdpTX || action == xdpRedirect:
			return sentOn(t, out)
		case action != xdpPass || !bytes.Equal(frame, out):
			return end{}, fmt.Errorf("XDP returns %d, and leaves the packet changed: %v", action, !bytes.Equal(frame, out))
		}
	}
	return n.enter("waggle_ingress", n.uplink, t, frame)
}

// sendFromPod has the program on the pods' device see a packet of a pod.
func (n *node) sendFromPod(t tuple) (end, error) {
	frame, err := openingFrame(t, podMAC, n.pods.Attrs().HardwareAddr)
	if err != nil {
		return end{}, err
	}
	return n.enter("waggle_pod", n.pods, t, frame)
}

// enter has a tc program see a packet that comes in, and where it leaves that to the kernel, the
// program on the device that the kernel routes it to.
func (n *node) enter(program string, link netlink.Link, t tuple, frame []byte) (end, error) {
	action, out, err := n.runTC(program, link.Attrs().Index, frame)
	switch {
	case err != nil:
		return end{}, err
	case action == tcShot:
		return end{fate: dropped}, nil
	case action == tcRedirect:
		return sentOn(t, out)
	case action != tcNext:
		return end{}, fmt.Errorf("%s returns %d", program, int32(action))
	case bytes.Equal(frame, out):
		return end{fate: leftAlone}, nil
	}
	to, err := tupleOf(out)
	if err != nil {
		return end{}, err
	}
	device, err := deviceTo(to.dst.Addr())
	if err != nil {
		return end{}, err
	}
	// Where it redirects the packet, that is another way to send it on.
	if action, out, err = n.runTC("waggle_egress", device, out); err != nil || action == tcShot {
		return end{fate: dropped}, err
	}
	return sentOn(t, out)
}

// sentOn is the end of a packet that was sent as `out`.
func sentOn(t tuple, out []byte) (end, error) {
	to, err := tupleOf(out)
	if err != nil {
		return end{}, err
	}
	if to.dst.Addr() == t.src.Addr() && to.src.Addr() == t.dst.Addr() && (to.reset || to.icmp) {
		return end{fate: refused}, nil
	}
	if to.proto != t.proto {
		return end{}, fmt.Errorf("%+v became %+v", t, to)
	}
	return end{led, to.dst, to.src.Addr()}, nil
}

// runTC runs a program on a packet that comes in, or leaves, by a device.
func (n *node) runTC(program string, device int, frame []byte) (uint32, []byte, error) {
	context := struct { // the beginning of struct __sk_buff
		_                [9]uint32
		ingress, ifindex uint32
	}{ingress: uint32(device), ifindex: uint32(device)}
	return n.run(program, frame, context)
}

func (n *node) run(program string, frame []byte, context any) (uint32, []byte, error) {
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context, Repeat: 1}
	action, err := n.dp.Program(program).Run(opts)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", program, err)
	}
	return action, opts.DataOut, nil
}
