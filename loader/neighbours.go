// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is another program that runs on packets, or on calls of sockets, before ours.
type Neighbour struct {
	Hook    string // as in LinkStatus
	Device  string // empty for sockets
	Ifindex int    // 0 for sockets
	Cgroup  string // sockets only
	Name    string // empty if the program has none, or the caller may not ask for it (CAP_SYS_ADMIN)
	ID      ebpf.ProgramID
}

// Program describes the program, for messages.
func (n Neighbour) Program() string {
	if n.Name == "" {
		return fmt.Sprintf("a program without a name (id %d)", n.ID)
	}
	return fmt.Sprintf("the program %q (id %d)", n.Name, n.ID)
}

// Neighbours lists them for the devices that have our programs and, if cgroup is not empty, for that
// cgroup2 directory. Where our own program does not run, no program counts as before it.
func (d *Datapath) Neighbours(cgroup string) ([]Neighbour, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ours, err := d.programNames()
	if err != nil {
		return nil, err
	}
	devices, err := allDevices()
	if err != nil {
		return nil, err
	}
	served := map[int]bool{} // the devices that have a TCX link of ours
	for _, pin := range d.links.pins {
		served[pin.ifindex] = served[pin.ifindex] || pin.hook == hookTCXIngress
	}
	var all []Neighbour
	var errs []error
	for _, dev := range devices {
		if !served[dev.Attrs().Index] && !d.clsact {
			continue
		}
		found, err := d.beforeOurs(dev, ours)
		errs = append(errs, err)
		all = append(all, found...)
	}
	sockets, err := socketsBeforeOurs(cgroup, ours)
	return append(all, sockets...), errors.Join(append(errs, err)...)
}

// NeighboursOf lists them for one device. The device may be gone.
func (d *Datapath) NeighboursOf(ifindex int) ([]Neighbour, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ours, err := d.programNames()
	if err != nil {
		return nil, err
	}
	dev, err := device(ifindex)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d.beforeOurs(dev, ours)
}

// programNames are the names of our programs by their ids, which last as long as the datapath is loaded.
func (d *Datapath) programNames() (programNames, error) {
	if d.names != nil {
		return d.names, nil
	}
	names := programNames{}
	for name, program := range d.collection.Programs {
		id, err := kernelID(program)
		if err != nil {
			return nil, err
		}
		names[id] = name
	}
	d.names = names
	return names, nil
}

// beforeOurs returns no error for a device that has just gone.
func (d *Datapath) beforeOurs(dev netlink.Link, ours programNames) ([]Neighbour, error) {
	var all []Neighbour
	var errs []error
	found := func(hook string, id ebpf.ProgramID) {
		all = append(all, Neighbour{Hook: hook, Device: dev.Attrs().Name, Ifindex: dev.Attrs().Index, Name: nameOf(id), ID: id})
	}
	here := false // ours run on this device
	for _, h := range []hook{hookTCXIngress, hookTCXEgress} {
		ids, err := tcPrograms(dev, h, d.clsact)
		before, runs := cutAtOurs(ids, ours)
		name, _ := h.describe()
		for _, id := range before {
			found(name, id)
		}
		here = here || runs
		errs = append(errs, err)
	}
	if xdp := dev.Attrs().Xdp; here && xdp != nil && xdp.Attached && ours[ebpf.ProgramID(xdp.ProgId)] == "" {
		found("xdp", ebpf.ProgramID(xdp.ProgId))
	}
	err := explain(dev, "hooks", errors.Join(errs...))
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return all, err
}

// cutAtOurs returns the programs that run before the first of ours, if there is one.
func cutAtOurs(ids []ebpf.ProgramID, ours programNames) (before []ebpf.ProgramID, found bool) {
	for i, id := range ids {
		if _, is := ours[id]; is {
			return ids[:i], true
		}
	}
	return nil, false
}

// tcPrograms lists the programs at a tc hook, in the order in which they run.
func tcPrograms(dev netlink.Link, h hook, clsact bool) ([]ebpf.ProgramID, error) {
	if clsact {
		return filterPrograms(dev, h)
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: h.attach})
	if err != nil {
		return nil, err
	}
	return idsOf(result), nil
}

func idsOf(result *link.QueryResult) []ebpf.ProgramID {
	var ids []ebpf.ProgramID
	for _, p := range result.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

// socketsBeforeOurs looks at the programs that are in effect in a cgroup, in the order in which they
// run.
func socketsBeforeOurs(cgroup string, ours programNames) ([]Neighbour, error) {
	if cgroup == "" {
		return nil, nil
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("cgroup %w", err)
	}
	defer dir.Close()
	var all []Neighbour
	var errs []error
	for _, h := range cgroupHooks {
		result, err := link.QueryPrograms(link.QueryOptions{
			Target: int(dir.Fd()), Attach: h.attach, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("cgroup %s: %s: %w", cgroup, h.name, err))
			continue
		}
		before, _ := cutAtOurs(idsOf(result), ours)
		for _, id := range before {
			all = append(all, Neighbour{Hook: h.name, Cgroup: cgroup, Name: nameOf(id), ID: id})
		}
	}
	return all, errors.Join(errs...)
}

// nameOf asks the kernel for a program's name.
func nameOf(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
