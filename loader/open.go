// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// View is a read-only view of a pinned datapath. An agent may run or not.
type View struct {
	pins pinDir
	maps map[string]*ebpf.Map
	hz   uint32
}

// ErrNotLoaded is returned by Open and Maintain if nothing is pinned.
var ErrNotLoaded = errors.New("the datapath is not loaded")

// Open opens the pinned maps. It loads nothing and locks nothing.
func Open(pinDirectory string) (*View, error) {
	dir, err := cleanPinDir(pinDirectory)
	if err != nil {
		return nil, err
	}
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	v := &View{pins: pinDir(dir), maps: make(map[string]*ebpf.Map)}
	if v.hz, err = tickRate(); err != nil {
		return nil, err
	}
	layouts, err := v.pins.openLayouts(&ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("run as root: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer layouts.close()
	for _, name := range takePinning(spec) {
		if v.maps[name], err = v.pins.viewMap(spec.Maps[name], name, layouts); err != nil {
			delete(v.maps, name)
			v.Close()
			return nil, err
		}
	}
	return v, nil
}

func (p pinDir) viewMap(spec *ebpf.MapSpec, name string, layouts layoutTable) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(p.mapPin(name), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(p.mapPin("runtime")); err == nil {
			return nil, fmt.Errorf("the datapath is of another version of waggle: there is no %s: "+
				"use the command of the version that runs", p.mapPin(name))
		}
		return nil, fmt.Errorf("%w: there is no %s: has an agent run with this pin directory?",
			ErrNotLoaded, p.mapPin(name))
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open the pinned map %s: run as root: %w", p.mapPin(name), err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned map %s: %w", p.mapPin(name), err)
	}
	version, err := layouts.of(m)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if version != layoutOf(name).version || m.KeySize() != spec.KeySize || m.ValueSize() != spec.ValueSize {
		return nil, errors.Join(fmt.Errorf("the pinned map %s is of another version of waggle: "+
			"use the command of the version that runs", p.mapPin(name)), m.Close())
	}
	return m, nil
}

// Map returns a map by its name in bpf/*.h, or nil. It is closed by Close.
func (v *View) Map(name string) *ebpf.Map { return v.maps[name] }

// Links lists the attached programs.
func (v *View) Links() ([]LinkStatus, error) {
	names, err := v.pins.linkNames()
	if err != nil {
		return nil, err
	}
	devices, err := allDevices()
	if err != nil {
		return nil, err
	}
	return v.pins.status(names, devices, v.pins.programNames(), "")
}

// Jiffies returns the present time in the maps' unit, and how many jiffies a second has.
func (v *View) Jiffies() (now, hz uint32, err error) {
	program, err := ebpf.LoadPinnedProgram(v.pins.programPin(jiffiesProgram), nil)
	if err != nil {
		return 0, v.hz, fmt.Errorf("open the pinned program %s: %w", jiffiesProgram, err)
	}
	defer program.Close()
	now, err = runJiffies(program)
	return now, v.hz, err
}

// Close closes the maps.
func (v *View) Close() error {
	closeMaps(v.maps)
	return nil
}
