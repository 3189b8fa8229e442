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

// The flows of the release before this one are in maps of two names each: flows4, which has another
// pin while they are converted, and flows_new4, which has no successor.
const oldSuffix = "-old"

var flowTables = []string{"flows4", "flows6"}

var newFlowTables = []string{"flows_new4", "flows_new6"}

// oldFlowPins are the pins of all of them while they are converted, by the names of the maps.
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

// openOldFlows adds what is pinned already to the tables that were found: an agent before this one
// may have died while it converted them.
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

// addOldFlows gives the tables the pins that they have while they are converted.
func (s *staging) addOldFlows(pins pinDir, old map[string]*ebpf.Map) error {
	for _, name := range flowTables {
		if old[name] == nil {
			continue
		}
		again, err := old[name].Clone() // which knows nothing of a pin, so that this one is not moved
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

// OldFlows are the tables of flows that the release before this one has left, by their names there,
// and that are not converted yet: flows4, flows6, flows_new4 and flows_new6. Programs of that
// release may still use them. There may be none.
func (d *Datapath) OldFlows() map[string]*ebpf.Map {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.old)
}

// DropOldFlows ends the conversion: no program that is attached uses the old tables any more.
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

// What Convert fails with if there is no place for the record.
var (
	ErrOtherFlow = errors.New("the tuple is another flow's by now")
	ErrTableFull = errors.New("all records in reach are of confirmed flows")
)

// How often, and how long apart, Convert tries while the command walks over the flows.
const (
	convertTries = 1000
	convertPause = time.Millisecond
)

// Convert makes a record, or lets the one that an earlier call has made know what has happened
// since. It is for a datapath that OldFlows were found for.
func (d *Datapath) Convert(c bpf.Conversion) (added bool, err error) {
	d.walk.Lock()
	defer d.walk.Unlock()
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
// the layouts of all.
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

// addressesAreLocal: what was the set of addresses that NodePorts answer on also tells which are the
// node's own, as all of these are.
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
