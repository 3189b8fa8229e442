// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// The flows of the previous release are in maps with two names for each family: flows4, which has
// another pin while its flows are converted, and flows_new4, which has no successor.
const oldSuffix = "-old"

var flowTables = []string{"flows4", "flows6"}

var newFlowTables = []string{"flows_new4", "flows_new6"}

// oldFlowPins are the pins of these maps during the conversion, by the names of the maps.
func oldFlowPins() map[string]string {
	pins := map[string]string{}
	for _, name := range flowTables {
		pins[name] = name + oldSuffix
	}
	for _, name := range newFlowTables {
		pins[name] = name
	}
	return pins
}

func isOldFlows(pin string) bool {
	return slices.Contains(slices.Collect(maps.Values(oldFlowPins())), pin)
}

// openOldFlows adds tables that are pinned already: an earlier agent may have died during the
// conversion.
func (p pinDir) openOldFlows(old map[string]*ebpf.Map) error {
	for name, pin := range oldFlowPins() {
		if old[name] != nil {
			continue
		}
		m, err := ebpf.LoadPinnedMap(p.mapPin(pin), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open the pinned map %s: %w", p.mapPin(pin), err)
		}
		old[name] = m
	}
	return nil
}

// addOldFlows gives the tables the pins that they have during the conversion.
func (s *staging) addOldFlows(pins pinDir, old map[string]*ebpf.Map) error {
	for _, name := range flowTables {
		if old[name] == nil {
			continue
		}
		again, err := old[name].Clone() // the clone has no pin, so the library does not move the original's
		if err != nil {
			return fmt.Errorf("pin the map %s once more: %w", name, err)
		}
		err = errors.Join(s.add(again, pins.mapPin(name+oldSuffix)), again.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

// OldFlows returns the tables of flows that the previous release has left and that are not converted
// yet, by their names there: flows4, flows6, flows_new4 and flows_new6. Programs of that release may
// still use them. There may be none.
func (d *Datapath) OldFlows() map[string]*ebpf.Map {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.old)
}

// DropOldFlows ends the conversion. No attached program may use the old tables any more.
func (d *Datapath) DropOldFlows() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	closeMaps(d.old)
	d.old = nil
	for _, pin := range oldFlowPins() {
		if err := os.Remove(d.pins.mapPin(pin)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpin an old table of flows: %w", err)
		}
	}
	return nil
}

// The errors that Convert returns if there is no place for the record.
var (
	ErrOtherFlow = errors.New("another flow has taken the tuple")
	ErrTableFull = errors.New("all candidate records belong to confirmed flows")
)

// How often, and at which interval, Convert tries while a command walks over the flows.
const (
	convertTries = 1000
	convertPause = time.Millisecond
)

// Convert makes a record, or copies what has happened since into the record that an earlier call has
// made. added says whether it made one. It needs a datapath with OldFlows. It fails with ErrOtherFlow if
// another flow has the record's tuple, and with ErrTableFull if there is no place for the record.
func (d *Datapath) Convert(c bpf.Conversion) (added bool, err error) {
	d.walk.Lock()
	defer d.walk.Unlock()
	defer d.recordsMade.Add(1)
	var code int32
	for range convertTries {
		ret, err := d.Program(convertProgram).Run(&ebpf.RunOptions{Context: c})
		if err != nil {
			return false, fmt.Errorf(convertProgram+": %w", err)
		}
		if code = int32(ret); code != -int32(unix.EBUSY) {
			break
		}
		time.Sleep(convertPause)
	}
	switch {
	case code == -int32(unix.EEXIST):
		return false, ErrOtherFlow
	case code == -int32(unix.ENOSPC):
		return false, ErrTableFull
	case code < 0:
		return false, fmt.Errorf(convertProgram+": %w", unix.Errno(-code))
	}
	return code != 0, nil
}

// convertMaps rewrites the elements of maps that stay, where their meaning has changed, and notes
// the layouts of all maps.
func (d *Datapath) convertMaps(names []string, pinned map[string]*ebpf.Map, layouts layoutTable) error {
	all := slices.Collect(maps.Values(d.old))
	for _, name := range names {
		m, layout := d.Map(name), layoutOf(name)
		all = append(all, m)
		if pinned[name] == nil {
			continue
		}
		version, err := layouts.of(m)
		if err == nil && version != layout.version && layout.change == addressesLocal {
			err = addressesAreLocal(m)
		}
		if err == nil {
			err = layouts.set(m, layout.version)
		}
		if err != nil {
			return fmt.Errorf("convert the map %s: %w", name, err)
		}
	}
	return layouts.prune(all...)
}

// addressesAreLocal marks all addresses as local. The map was the set of addresses that NodePorts
// answer on, and all of these are the node's own.
func addressesAreLocal(m *ebpf.Map) error {
	var key, flags []byte
	converted := map[string]uint8{}
	it := m.Iterate()
	for it.Next(&key, &flags) {
		converted[string(key)] = flags[0] | bpf.NodeAddrLocal
	}
	if err := it.Err(); err != nil {
		return err
	}
	for key, flags := range converted {
		if err := m.Put([]byte(key), flags); err != nil {
			return err
		}
	}
	return nil
}
