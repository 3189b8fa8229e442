// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/maps"
)

// pinnedMaps are an agent's, by their names, as a maps.Provider.
type pinnedMaps map[string]*ebpf.Map

// Map implements maps.Provider.
func (m pinnedMaps) Map(name string) *ebpf.Map { return m[name] }

// Announced opens the maps of the addresses that the agent's programs answer for. Unlike what loader.Open returns, they
// can be written to. Call done when they are not used any more.
func (a *Agent) Announced() (table *maps.Announced, done func(), err error) {
	pinned := pinnedMaps{}
	done = func() {
		for _, m := range pinned {
			m.Close()
		}
	}
	for _, name := range []string{"announced", "announce_until"} {
		if pinned[name], err = ebpf.LoadPinnedMap(filepath.Join(a.PinDir, "maps", name), nil); err != nil {
			done()
			return nil, nil, fmt.Errorf("open the map %s: %w", name, err)
		}
	}
	return maps.NewAnnounced(pinned), done, nil
}
