// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/bpf"
)

// maintenance are the programs that work on records, and are never attached.
var maintenance = []string{"waggle_adopt", "waggle_follow", "waggle_leave", "waggle_expire4", "waggle_expire6", jiffiesProgram}

// Maintain opens a pinned datapath that no agent holds, to change what is in its maps. It loads none
// of the programs that packets run through, and pins nothing. Attached programs go on. It fails with
// ErrNotLoaded if nothing is pinned, and with ErrHeld while an agent runs.
func Maintain(pinDirectory string) (*Datapath, error) {
	view, err := Open(pinDirectory)
	if err != nil {
		return nil, err
	}
	if err := view.Close(); err != nil {
		return nil, err
	}
	opts, err := Options{PinDir: pinDirectory}.complete()
	if err != nil {
		return nil, err
	}
	pins := pinDir(opts.PinDir)
	lock, err := pins.lock()
	if err != nil {
		return nil, err
	}
	d := &Datapath{pins: pins, lock: lock, compiled: bpf.Whole, log: opts.Log}
	if err := d.loadMaintenance(opts); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) loadMaintenance(opts Options) error {
	parts, err := d.configured(opts, readParts(d.compiled))
	if err != nil {
		return err
	}
	spec, types := parts.spec, parts.types
	layouts, err := d.pins.openLayouts(nil)
	if err != nil {
		return err
	}
	defer layouts.close()
	names := takePinning(spec)
	for _, name := range names { // the pinned maps keep their sizes
		m, err := d.pins.viewMap(spec.Maps[name], name, layouts)
		if err != nil {
			return err
		}
		spec.Maps[name].MaxEntries = m.MaxEntries()
		m.Close()
	}
	found, err := d.pins.openMaps(spec, names, layouts, d.log)
	if err != nil {
		return err
	}
	defer found.close()
	if err := bpf.Fit(spec); err != nil {
		return err
	}
	if d.collection, err = newMaps(spec, found.pinned, types); err != nil {
		return fmt.Errorf("open the maps of the flows: %w", err)
	}
	if d.links, err = d.pins.linkPins(); err != nil {
		return err
	}
	var refused map[string]error
	d.collection.Programs, refused = loadPrograms(spec, maintenance, d.collection.Maps, types)
	return refusal(refused)
}
