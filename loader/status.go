// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkStatus is one attachment, as the kernel reports it.
type LinkStatus struct {
	Hook      string // "xdp", "tc-ingress", "tc-egress", "connect4", ...
	Kind      string // "xdp-native", "tcx", "clsact", "cgroup"
	Device    string // empty for sockets, and if the device is gone
	Ifindex   int
	Cgroup    string // sockets only; empty if the cgroup is gone
	Program   string
	ProgramID ebpf.ProgramID
	LinkID    link.ID // 0 for clsact
	Attached  bool    // the device or cgroup confirms that it runs this program
}

// Links lists what is attached in this network namespace, in the order of the pins' names.
func (d *Datapath) Links() ([]LinkStatus, error) {
	devices, err := allDevices()
	if err != nil {
		return nil, err
	}
	return d.LinksAmong(devices)
}

// LinksAmong does the same for a caller who has just listed the devices, which takes longer than most of the rest.
func (d *Datapath) LinksAmong(devices []netlink.Link) ([]LinkStatus, error) {
	d.mu.Lock()
	programs, err := d.programNames()
	cgroup := d.cgroup
	names, err2 := d.pins.linkNames()
	if err2 == nil {
		d.links.take(names) // what others have removed is forgotten
	}
	d.mu.Unlock()
	if err := cmp.Or(err, err2); err != nil {
		return nil, err
	}
	return d.pins.status(names, devices, programs, cgroup)
}

// LinksOf is the part of Links about some devices. It takes time in proportion to their number.
func (d *Datapath) LinksOf(ifindexes ...int) ([]LinkStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	programs, err := d.programNames()
	if err != nil {
		return nil, err
	}
	var devices []netlink.Link
	for _, ifindex := range ifindexes {
		dev, err := device(ifindex)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		devices = append(devices, dev)
	}
	var names []string
	for _, pin := range d.links.where(func(pin devicePin) bool { return slices.Contains(ifindexes, pin.ifindex) }) {
		names = append(names, pin.pin)
	}
	all, err := d.pins.linkStatuses(names, devices, programs, d.cgroup)
	if err != nil || !d.clsact {
		return all, err
	}
	filters, err := filterStatus(d.pins, devices)
	return append(all, filters...), err
}

// status lists everything, of links those with these pins. Where TCX serves there are no filters of ours: AttachTC removes those of
// earlier runs. status asks the cgroup at the path, if it is the cgroup of the links. Else it finds that
// cgroup by its id, which a container may not do unless it sees the hierarchy at its root.
func (p pinDir) status(names []string, devices []netlink.Link, programs programNames, cgroup string) ([]LinkStatus, error) {
	all, err := p.linkStatuses(names, devices, programs, cgroup)
	if err != nil || slices.ContainsFunc(all, func(s LinkStatus) bool { return s.Kind == KindTCX }) {
		return all, err
	}
	filters, err := filterStatus(p, devices)
	return append(all, filters...), err
}

// linkStatuses lists the links with these pins. It knows only the devices that it is given.
func (p pinDir) linkStatuses(names []string, devices []netlink.Link, programs programNames, cgroup string) ([]LinkStatus, error) {
	byIndex := make(map[int]netlink.Link, len(devices))
	for _, dev := range devices {
		byIndex[dev.Attrs().Index] = dev
	}
	var all []LinkStatus
	for _, name := range names {
		status, err := p.linkStatus(name, cgroup, byIndex)
		if errors.Is(err, os.ErrNotExist) || strings.HasSuffix(name, stagedSuffix) {
			continue // the agent changes it at this moment
		}
		if err != nil {
			return nil, err
		}
		status.Program = programs.name(status.ProgramID)
		all = append(all, status)
	}
	return all, nil
}

func (p pinDir) linkStatus(pin, cgroup string, devices map[int]netlink.Link) (LinkStatus, error) {
	path := p.linkPin(pin)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return LinkStatus{}, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	target, err := inspect(l)
	if err != nil {
		return LinkStatus{}, err
	}
	status := LinkStatus{ProgramID: target.program, LinkID: target.link}
	if hook, ok := cgroupHookOf(pin); ok {
		status.Hook, status.Kind = hook.name, "cgroup"
		status.Cgroup, status.Attached = target.cgroupStatus(hook, cgroup)
		return status, nil
	}
	for _, h := range deviceHooks {
		if _, ok := h.parse(pin); ok {
			status.Hook, status.Kind = h.describe()
			status.deviceStatus(h, target, devices[target.ifindex])
		}
	}
	return status, nil
}

// KindTCX is the LinkStatus.Kind of programs at tc's hooks that are attached by TCX.
const KindTCX = "tcx"

func (h hook) describe() (hook, kind string) {
	if h == hookXDP {
		return "xdp", "xdp-native"
	}
	return strings.Replace(h.name, "tcx", "tc", 1), KindTCX
}

// deviceStatus describes the link of a device. dev is nil if no device has that index.
func (s *LinkStatus) deviceStatus(h hook, t target, dev netlink.Link) {
	s.Ifindex = t.ifindex
	if dev == nil {
		return
	}
	s.Device = dev.Attrs().Name
	s.Attached = t.attachedTo(h, dev)
}

func cgroupHookOf(pin string) (cgroupHook, bool) {
	for _, h := range cgroupHooks {
		if h.pin() == pin {
			return h, true
		}
	}
	return cgroupHook{}, false
}

// cgroupStatus finds a cgroup by its id, and asks the cgroup which programs it runs.
func (t target) cgroupStatus(h cgroupHook, known string) (path string, attached bool) {
	if t.cgroup == 0 {
		return "", false
	}
	if dir, id, err := openCgroup(known); err == nil {
		defer dir.Close()
		if id == t.cgroup {
			return known, t.queried(int(dir.Fd()), h.attach)
		}
	}
	path = fmt.Sprintf("(id %d)", t.cgroup)
	dir, err := cgroupByID(t.cgroup)
	if err != nil {
		return path, false
	}
	defer dir.Close()
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())); err == nil {
		path = name
	}
	return path, t.queried(int(dir.Fd()), h.attach)
}

// fileidKernfs is FILEID_KERNFS of linux/exportfs.h: the handle is the id.
const fileidKernfs = 0xfe

func cgroupByID(id uint64) (*os.File, error) {
	mountPoint, err := CgroupRoot()
	if err != nil {
		return nil, err
	}
	mount, mounted, err := openCgroup(mountPoint)
	if err != nil {
		return nil, err
	}
	if mounted == id { // needs no privilege
		return mount, nil
	}
	defer mount.Close()
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup with id %d: %w", id, err)
	}
	return os.NewFile(uintptr(fd), mountPoint), nil
}

// cgroupRootID is the id of the root of the cgroup2 hierarchy.
const cgroupRootID = 1

// CgroupRoot finds where the cgroup2 hierarchy is mounted, also on hosts that have it beside v1. A
// container sees its own cgroup first. A mount of the whole hierarchy, which may be anywhere in the
// container, takes precedence.
func CgroupRoot() (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	first := ""
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || fields[2] != "cgroup2" {
			continue
		}
		if IsCgroupRoot(fields[1]) {
			return fields[1], nil
		}
		if first == "" {
			first = fields[1]
		}
	}
	if first == "" {
		return "", fmt.Errorf("no cgroup2 hierarchy is mounted")
	}
	return first, nil
}

// programNames gives programs their names in the source: the kernel keeps only 15 bytes.
type programNames map[ebpf.ProgramID]string

func (p pinDir) programNames() programNames {
	names := make(programNames)
	pins, err := listDir(p.programs())
	if err != nil {
		return names
	}
	for _, pin := range pins {
		if id, err := pinnedProgramID(p.programPin(pin)); err == nil {
			names[id] = pin
		}
	}
	return names
}

func pinnedProgramID(path string) (ebpf.ProgramID, error) {
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, err
	}
	defer program.Close()
	return kernelID(program)
}

// name falls back on the kernel's name: a link that was not attached anew since an upgrade still runs
// the old program.
func (n programNames) name(id ebpf.ProgramID) string {
	if name, ok := n[id]; ok {
		return name
	}
	return nameOf(id)
}
