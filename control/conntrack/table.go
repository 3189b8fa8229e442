// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Table is the table of one network namespace: that of the thread that opened it. Its methods may be called
// concurrently, but not by a function that Each calls.
type Table struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	out []byte // a request
	in  []byte // a part of the answer
}

// ErrNotFound is returned by Get and Delete if there is no such entry.
var ErrNotFound = errors.New("the kernel's table of connections has no such entry")

const (
	receiveSize    = 64 << 10 // the kernel fills at most half of it
	receiveTimeout = 10 * time.Second
)

// Open opens the table.
func Open() (*Table, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("ctnetlink: %w", err)
	}
	timeout := unix.NsecToTimeval(receiveTimeout.Nanoseconds())
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ctnetlink: %w", err), unix.Close(fd))
	}
	return &Table{fd: fd, in: make([]byte, receiveSize)}, nil
}

// Close closes the table's socket.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return unix.Close(t.fd)
}

// answer is one message of an answer.
type answer struct {
	typ  uint16
	body []byte // valid until the next answer
}

// exchange sends a request, and calls fn with each message of the answer until it returns true.
func (t *Table) exchange(m message, fn func(answer) (done bool, err error)) error {
	t.seq++
	if err := unix.Sendto(t.fd, m.finish(t.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ctnetlink: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(t.fd, t.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("ctnetlink: %w", err)
		}
		if done, err := t.messages(t.in[:n], fn); done || err != nil {
			return err
		}
	}
}

// messages passes on the messages that answer the last request.
func (t *Table) messages(b []byte, fn func(answer) (bool, error)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return false, errShort
		}
		a := answer{typ: binary.NativeEndian.Uint16(b[4:]), body: b[unix.NLMSG_HDRLEN:size]}
		seq := binary.NativeEndian.Uint32(b[8:])
		b = b[min((size+3)&^3, len(b)):]
		if seq != t.seq {
			continue // an answer to an earlier request that was given up
		}
		if done, err = fn(a); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// result returns the kernel's final result, which comes in place of an entry or after the last.
func (a answer) result() (final bool, err error) {
	if a.typ != unix.NLMSG_ERROR && a.typ != unix.NLMSG_DONE {
		return false, nil
	}
	if len(a.body) < 4 {
		return true, nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(a.body)))
	switch errno {
	case 0:
		return true, nil
	case unix.ENOENT:
		return true, ErrNotFound
	}
	return true, errno
}

// Each calls fn with the entries of a family, AF_INET or AF_INET6, or of all (AF_UNSPEC), that have all bits of
// status. The kernel walks the whole table for each call. Each reads some entries at a time, so its memory does
// not depend on their number. It may miss entries that come or go meanwhile. bad counts entries that can't be
// decoded.
func (t *Table) Each(family uint8, status uint32, fn func(Entry)) (bad int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := newMessage(t.out, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family)
	if status != 0 { // Linux 5.15; older kernels ignore it, and the entries are left out here
		m.word(nl.CTA_STATUS, status)
		m.word(ctaStatusMask, status)
	}
	t.out = m
	r := reading{status: status, fn: fn}
	err = t.exchange(m, r.take)
	return r.bad, err
}

// reading passes on entries as they arrive.
type reading struct {
	status    uint32
	fn        func(Entry)
	good, bad int
}

func (r *reading) take(a answer) (done bool, err error) {
	if final, err := a.result(); final {
		return true, err
	}
	e, err := decode(a.body)
	switch {
	case err != nil:
		r.bad++
	case e.Status&r.status == r.status:
		r.good++
		r.fn(e)
	}
	return false, nil
}

// Get returns the entry that has a tuple, in either direction. It fails with ErrNotFound if there is none.
func (t *Table) Get(tuple Tuple, proto uint8) (e Entry, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := newMessage(t.out, nl.IPCTNL_MSG_CT_GET, 0, familyOf(tuple.Src.Addr()))
	m.tuple(nl.CTA_TUPLE_ORIG, tuple, proto)
	t.out = m
	err = t.exchange(m, func(a answer) (bool, error) {
		if final, err := a.result(); final {
			return true, err
		}
		e, err = decode(a.body)
		return true, err
	})
	return e, err
}
