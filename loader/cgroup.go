// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroupHook is a socket operation; its pin is named after it.
type cgroupHook struct {
	name   string
	attach ebpf.AttachType
}

func (h cgroupHook) pin() string     { return "cgroup-" + h.name }
func (h cgroupHook) program() string { return "waggle_" + h.name }

// The hooks that show addresses to the application are attached first. They do nothing until an
// address has been rewritten, and from then on they have to be there.
var cgroupHooks = []cgroupHook{
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
	{"connect4", ebpf.AttachCGroupInet4Connect},
	{"connect6", ebpf.AttachCGroupInet6Connect},
}

// AttachCgroup attaches the socket programs to a cgroup2 directory: all of them or, if one can't be
// attached, none. A second call replaces them in place. If the cgroup is another one, or was made
// anew under the same path, AttachCgroup attaches there before it detaches from the old one.
func (d *Datapath) AttachCgroup(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, id, err := openCgroup(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	attached := make(map[cgroupHook]link.Link)
	defer func() {
		for _, l := range attached {
			l.Close() // detaches those that were not pinned
		}
	}()
	for _, h := range cgroupHooks {
		if d.pinnedTo(h, id) {
			continue
		}
		l, err := d.createCgroup(h, dir)
		if err != nil {
			return fmt.Errorf("cgroup %s: attach %s: %w", path, h.name, err)
		}
		attached[h] = l
	}
	d.cgroup = path
	for _, h := range cgroupHooks {
		if err := d.putCgroup(h, attached[h]); err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
	}
	return nil
}

func openCgroup(path string) (dir *os.File, id uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, 0, fmt.Errorf("cgroup %s is not in a cgroup2 hierarchy: "+
			"name the one that is mounted (grep cgroup2 /proc/mounts), or: "+
			"mount -t cgroup2 none <directory>", path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // os.Open asks for more, in vain
	if err != nil {
		return nil, 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	dir = os.NewFile(uintptr(fd), path)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("cgroup %s: %w", path, err), dir.Close())
	}
	return dir, stat.Ino, nil
}

// pinnedTo reports whether the hook's pinned link is attached to this very cgroup. The kernel does
// not use an id twice.
func (d *Datapath) pinnedTo(h cgroupHook, id uint64) bool {
	l, err := link.LoadPinnedLink(d.pins.linkPin(h.pin()), nil)
	if err != nil {
		return false
	}
	defer l.Close()
	target, err := inspect(l)
	return err == nil && target.cgroup == id
}

func (d *Datapath) createCgroup(h cgroupHook, dir *os.File) (link.Link, error) {
	// link.AttachCgroup would not do: where the kernel has no links, it attaches programs that can't
	// be pinned.
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target:  int(dir.Fd()),
		Program: d.Program(h.program()),
		Attach:  h.attach,
	})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("it, or a cgroup above it, has a program that allows no others "+
			"(see: bpftool cgroup tree): %w", err)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// putCgroup replaces the pinned link by a new one, or the program inside the pinned one.
func (d *Datapath) putCgroup(h cgroupHook, attached link.Link) error {
	path := d.pins.linkPin(h.pin())
	old, err := link.LoadPinnedLink(path, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	if old != nil {
		defer old.Close()
	}
	if attached == nil {
		if old == nil {
			return fmt.Errorf("another program has just removed the link %s: try again", path)
		}
		if err := old.Update(d.Program(h.program())); err != nil {
			return fmt.Errorf("replace the program of %s: %w", path, err)
		}
		return nil
	}
	if err := replacePin(attached, path); err != nil || old == nil {
		return err
	}
	if err := old.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s from the cgroup it was attached to before: %w", h.name, err)
	}
	return nil
}

// DetachCgroup removes the socket programs, those that rewrite first.
func (d *Datapath) DetachCgroup() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for i := len(cgroupHooks) - 1; i >= 0; i-- {
		errs = append(errs, detachPin(d.pins.linkPin(cgroupHooks[i].pin())))
	}
	return errors.Join(errs...)
}
