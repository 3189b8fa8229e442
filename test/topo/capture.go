// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// captureLimit bounds the number of frames in a capture.
const captureLimit = 20000

// Frame is a captured Ethernet frame.
type Frame struct {
	Data []byte
	// Outgoing: the host sent the frame.
	Outgoing bool
	// Unfinished: the device has to fill in the checksum.
	Unfinished bool
	// Tagged: the frame has a VLAN tag, which is not in Data.
	Tagged bool
}

// Capture collects the frames of a device. It sees what the stack sees: not the
// frames that XDP at the device drops, redirects or transmits.
type Capture struct {
	fd    int
	quit  int // an eventfd
	ended chan struct{}
	once  sync.Once

	mu     sync.Mutex
	frames []Frame
	more   chan struct{} // closed and replaced when frames arrive
	err    error
}

// Capture starts to collect the frames of a device, until Stop or the end of
// the network.
func (h *Host) Capture(ifname string) (*Capture, error) {
	link, err := h.Link(ifname)
	if err != nil {
		return nil, err
	}
	c := &Capture{fd: -1, ended: make(chan struct{}), more: make(chan struct{})}
	if c.quit, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := h.Do(func() error { return c.open(link.Attrs().Index) }); err != nil {
		c.closeFiles()
		return nil, fmt.Errorf("%s: capture on %s: %w", h.Name, ifname, err)
	}
	go c.collect()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.captures = append(h.captures, c)
	return c, nil
}

func (c *Capture) open(ifindex int) error {
	// Protocol 0: nothing arrives before the socket is bound to the device.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	c.fd = fd
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: ifindex})
}

func networkOrder(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }

// Stop ends the capture. It returns all frames that had arrived by then.
func (c *Capture) Stop() ([]Frame, error) {
	c.once.Do(func() {
		_, _ = unix.Write(c.quit, binary.NativeEndian.AppendUint64(nil, 1)) // can't fail on an eventfd at 0
		<-c.ended
		c.closeFiles()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames, c.err
}

// Wait waits for a frame that matches, among those captured already and later
// ones.
func (c *Capture) Wait(timeout time.Duration, match func(Frame) bool) (Frame, error) {
	expired := time.NewTimer(timeout)
	defer expired.Stop()
	for seen := 0; ; {
		c.mu.Lock()
		fresh, more, err := c.frames[seen:], c.more, c.err
		c.mu.Unlock()
		for _, f := range fresh {
			if match(f) {
				return f, nil
			}
		}
		seen += len(fresh)
		if err != nil {
			return Frame{}, err
		}
		select {
		case <-more:
		case <-c.ended:
			return Frame{}, errors.New("no such frame before the capture ended")
		case <-expired.C:
			return Frame{}, fmt.Errorf("no such frame among %d within %s", seen, timeout)
		}
	}
}

func (c *Capture) collect() {
	defer close(c.ended)
	buffer, control := make([]byte, 1<<17), make([]byte, 256)
	for stopping := false; ; {
		n, nc, _, from, err := unix.Recvmsg(c.fd, buffer, control, unix.MSG_TRUNC)
		switch {
		case err == nil && n <= len(buffer):
			err = c.add(newFrame(buffer[:n], control[:nc], from))
		case err == unix.EINTR:
			err = nil
		case err == unix.EAGAIN && stopping:
			return
		case err == unix.EAGAIN:
			stopping, err = c.idle()
		}
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("capture: %w", err)
			c.mu.Unlock()
			return
		}
	}
}

// idle waits for frames or for Stop.
func (c *Capture) idle() (stopping bool, err error) {
	poll := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.quit), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
		return false, err
	}
	return poll[1].Revents != 0, nil
}

func (c *Capture) add(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.frames) == captureLimit {
		return fmt.Errorf("more than %d frames", captureLimit)
	}
	c.frames = append(c.frames, f)
	close(c.more)
	c.more = make(chan struct{})
	return nil
}

func newFrame(data, control []byte, from unix.Sockaddr) Frame {
	f := Frame{Data: append([]byte(nil), data...)}
	if sender, ok := from.(*unix.SockaddrLinklayer); ok {
		f.Outgoing = sender.Pkttype == unix.PACKET_OUTGOING
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return f
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			status := binary.NativeEndian.Uint32(m.Data)
			f.Unfinished = status&unix.TP_STATUS_CSUMNOTREADY != 0
			f.Tagged = status&unix.TP_STATUS_VLAN_VALID != 0
		}
	}
	return f
}

func (c *Capture) closeFiles() {
	for _, fd := range []int{c.fd, c.quit} {
		if fd >= 0 {
			_ = unix.Close(fd) // read-only use: nothing to lose
		}
	}
}
