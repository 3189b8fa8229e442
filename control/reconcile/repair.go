// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// Repairs counts, by map, the elements that were not as they should be, and are now.
type Repairs map[string]int

// RepairedMaps are the maps that Repair looks after.
var RepairedMaps = []string{
	"backends", "slots", "service_names", "source_ranges4", "source_ranges6",
	"services4", "services6", "cluster_ranges", "cluster_addrs",
}

// Repair compares the maps with what the reconciler knows to be in them, and undoes what somebody
// else has changed. It publishes in the order that Apply does: what frontends refer to, then
// frontends, and what nothing should refer to is removed last. It reads the maps whole. On an error
// the rest is repaired all the same.
func (r *Reconciler) Repair() (Repairs, error) {
	found := Repairs{}
	err := r.repair(found)
	if err != nil {
		err = r.repair(found) // a map may have been full of what is removed now
	}
	return found, err
}

// repair is one pass over all maps.
type repair struct {
	*Reconciler
	found  Repairs
	errs   []error
	strays []func() // remove them, those first that may refer to others last
}

func (r *Reconciler) repair(found Repairs) error {
	pass := &repair{Reconciler: r, found: found}
	for _, look := range []func() error{
		pass.lookAtBackends, pass.lookAtSlots, pass.lookAtNames, pass.lookAtRanges, pass.lookAtFrontends, pass.lookAtClusterIPs,
	} {
		if err := look(); err != nil {
			pass.errs = append(pass.errs, err)
		}
	}
	for _, remove := range slices.Backward(pass.strays) {
		remove()
	}
	return errors.Join(pass.errs...)
}

// done notes what became of one element.
func (p *repair) done(table string, err error) {
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	p.found[table]++
}

// later has a stray removed when all else is in place.
func (p *repair) later(table string, remove func() error) {
	p.strays = append(p.strays, func() { p.done(table, remove()) })
}

func (p *repair) lookAtBackends() error {
	want := make(map[uint32]maps.Backend, p.backends.InUse())
	for _, svc := range p.services {
		for _, ref := range svc.backends {
			want[ref.id] = ref.backend
		}
	}
	differing, strays, err := p.backends.Drift(want)
	for _, id := range differing {
		p.done("backends", p.backends.Write(id, want[id]))
	}
	for _, id := range strays {
		p.later("backends", func() error { return p.backends.Clear(id) })
	}
	return err
}

// lookAtSlots compares the blocks that are published. Nothing reads the slots outside of them.
func (p *repair) lookAtSlots() error {
	for _, svc := range p.services {
		for _, b := range svc.blocks {
			have, err := p.slots.Read(b.Block)
			if err != nil {
				return err
			}
			if slices.Equal(have, b.ids) {
				continue
			}
			if err := p.slots.Write(b.Block, b.ids); err != nil {
				return err
			}
			for i, id := range b.ids {
				if have[i] != id {
					p.found["slots"]++
				}
			}
		}
	}
	return nil
}

func (p *repair) lookAtNames() error {
	have, err := p.names.All()
	if err != nil {
		return err
	}
	for _, svc := range p.services {
		if name, ok := have[svc.id]; !ok || name != svc.name {
			p.done("service_names", p.names.Put(svc.id, svc.name))
		}
		delete(have, svc.id)
	}
	for id := range have {
		p.later("service_names", func() error { return p.names.Delete(id) })
	}
	return nil
}

func (p *repair) lookAtRanges() error {
	all, err := p.sources.All()
	if err != nil {
		return err
	}
	for _, svc := range p.services {
		p.lookAtRangesOf(svc.id, svc.ranges, all[svc.id])
		delete(all, svc.id)
	}
	if p.local != nil {
		p.lookAtRangesOf(maps.LocalSources, p.local, all[maps.LocalSources])
	}
	delete(all, maps.LocalSources)
	for id, prefixes := range all {
		p.lookAtRangesOf(id, nil, prefixes)
	}
	return nil
}

func (p *repair) lookAtRangesOf(id uint32, want map[netip.Prefix]bool, have []netip.Prefix) {
	for prefix := range want {
		if !slices.Contains(have, prefix) {
			p.done(tableOf("source_ranges", prefix.Addr()), p.sources.Put(id, prefix))
		}
	}
	for _, prefix := range have {
		if !want[prefix] {
			p.later(tableOf("source_ranges", prefix.Addr()), func() error { return p.sources.Delete(id, prefix) })
		}
	}
}

func (p *repair) lookAtFrontends() error {
	have, err := p.frontends.All()
	if err != nil {
		return err
	}
	for f, svc := range p.owners {
		want := svc.frontends[f]
		if got, ok := have[f]; ok && got == want || want == unknown {
			continue
		}
		p.done(tableOf("services", f.Addr), p.frontends.Put(f, want))
	}
	for f := range have {
		if p.owners[f] == nil {
			p.later(tableOf("services", f.Addr), func() error { return p.frontends.Delete(f) })
		}
	}
	return nil
}

func (p *repair) lookAtClusterIPs() error {
	c := p.clusterIPs
	same, err := c.table.HasRanges(c.ranges())
	if err != nil {
		return err
	}
	if !same {
		p.done("cluster_ranges", c.writeRanges())
	}
	differing, err := c.drift()
	if err != nil {
		return err
	}
	err = c.sync()
	for _, a := range differing {
		if !c.dirty[a] {
			p.found["cluster_addrs"]++
		}
	}
	return err
}

// drift compares the set of addresses with the map, and leaves what differs to the next sync.
func (c *clusterIPs) drift() (differing []netip.Addr, err error) {
	have, err := c.read()
	if err != nil {
		return nil, err
	}
	before := c.written
	c.written = have
	for a, owner := range have {
		if before[a] != owner {
			differing = append(differing, a)
		}
	}
	for a := range before {
		if have[a] == nobodys {
			differing = append(differing, a)
		}
	}
	for _, a := range differing {
		c.dirty[a] = true
	}
	return differing, nil
}

// tableOf names the map of an address's family.
func tableOf(name string, a netip.Addr) string { return fmt.Sprintf("%s%d", name, maps.FamilyOf(a)) }
