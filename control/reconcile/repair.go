// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// Repairs counts, by map, the elements that were wrong and have been corrected.
type Repairs map[string]int

// RepairedMaps are the maps that Repair corrects.
var RepairedMaps = []string{
	"backends", "slots", "service_names", "source_ranges4", "source_ranges6",
	"services4", "services6", "cluster_ranges", "cluster_addrs",
}

// Repair compares the maps with what the reconciler has written to them, and undoes what others
// have changed. It publishes in the order that Apply does: for each service what its frontends
// refer to, then frontends. Elements that nothing should refer to are removed last. After an error
// it still repairs the rest.
//
// It looks at everything, a little at a time. In between it calls pause, which may use the
// reconciler in any way but to Repair: an element is judged by what should be there at that moment.
func (r *Reconciler) Repair(pause func()) (Repairs, error) {
	pass := &repair{Reconciler: r, pause: pause, found: Repairs{}}
	err := pass.run()
	if err != nil {
		err = pass.run() // a map may have been full of what is removed by now
	}
	return pass.found, err
}

// repair is a pass over all maps.
type repair struct {
	*Reconciler
	pause func()
	found Repairs // over all runs of the pass
	errs  []error // of the last run
}

func (p *repair) run() error {
	p.errs = nil
	ranges := p.readRanges()
	p.putMissing(maps.LocalSources, p.local, ranges)
	for _, svc := range p.services {
		p.lookAtService(svc, ranges)
		p.pause()
	}
	p.lookAtClusterIPs()
	p.dropStrayFrontends()
	p.dropStrayRanges(ranges)
	p.dropStrayNames()
	p.dropStrayBackends()
	return errors.Join(p.errs...)
}

// done notes the result of a write to one element.
func (p *repair) done(table string, err error) {
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	p.found[table]++
}

// failed notes an error, and reports whether there was one.
func (p *repair) failed(err error) bool {
	if err != nil {
		p.errs = append(p.errs, err)
	}
	return err != nil
}

func (p *repair) lookAtService(svc *service, ranges map[maps.SourceRange]bool) {
	for _, b := range svc.backends {
		same, err := p.backends.Holds(b.id, svc.element(b))
		if !p.failed(err) && !same {
			p.done("backends", p.backends.Write(b.id, svc.element(b)))
		}
	}
	for _, b := range svc.blocks {
		p.failed(p.lookAtBlock(b))
	}
	named, err := p.names.Holds(svc.id, svc.name, svc.kind)
	if !p.failed(err) && !named {
		p.done("service_names", p.names.Put(svc.id, svc.name, svc.kind))
	}
	p.putMissing(svc.id, svc.ranges, ranges)
	for _, f := range svc.frontends {
		if f.element == unknown {
			continue
		}
		have, ok, err := p.frontends.Get(f.Frontend)
		if !p.failed(err) && (!ok || have != f.element) {
			p.done(tableOf("services", f.Addr), p.frontends.Put(f.Frontend, f.element))
		}
	}
}

// lookAtBlock compares a published block. Nothing reads the slots outside of these.
func (p *repair) lookAtBlock(b block) error {
	have, err := p.slots.Read(b.Block)
	if err != nil || slices.Equal(have, b.ids) {
		return err
	}
	if err := p.slots.Write(b.Block, b.ids); err != nil {
		return err
	}
	for i, id := range b.ids {
		if have[i] != id {
			p.found["slots"]++
		}
	}
	return nil
}

// readRanges reads all source ranges: the map can't be asked whether a single one is there.
func (p *repair) readRanges() map[maps.SourceRange]bool {
	have := map[maps.SourceRange]bool{}
	for r, err := range p.sources.Ranges() {
		if !p.failed(err) {
			have[r] = true
		}
		p.pause()
	}
	return have
}

// putMissing adds the source ranges of a service that were not seen and have not been added since.
func (p *repair) putMissing(id uint32, want []netip.Prefix, seen map[maps.SourceRange]bool) {
	for _, prefix := range want {
		r := maps.SourceRange{ID: id, Prefix: prefix}
		if seen[r] {
			continue
		}
		if missing, err := p.sources.PutMissing(r); missing || err != nil {
			p.done(tableOf("source_ranges", prefix.Addr()), err)
		}
	}
}

// dropStrayRanges removes the source ranges that belong to no service.
func (p *repair) dropStrayRanges(have map[maps.SourceRange]bool) {
	for r := range have {
		if p.wantsRange(r) {
			continue
		}
		if present, err := p.sources.DeletePresent(r); present || err != nil {
			p.done(tableOf("source_ranges", r.Prefix.Addr()), err)
		}
		p.pause()
	}
}

func (p *repair) wantsRange(r maps.SourceRange) bool {
	if r.ID == maps.LocalSources {
		return p.local == nil || slices.Contains(p.local, r.Prefix) // nil: SetLocalSources was not called yet
	}
	svc := p.byID[r.ID]
	return svc != nil && slices.Contains(svc.ranges, r.Prefix)
}

func (p *repair) dropStrayFrontends() {
	for f, err := range p.frontends.Frontends() {
		if p.failed(err) {
			continue
		}
		if p.owners[f] == nil {
			_, still, err := p.frontends.Get(f)
			if !p.failed(err) && still {
				p.done(tableOf("services", f.Addr), p.frontends.Delete(f))
			}
		}
		p.pause()
	}
}

func (p *repair) dropStrayNames() {
	for id, err := range p.names.Named() {
		if p.failed(err) {
			continue
		}
		if p.byID[id] == nil {
			still, err := p.names.Has(id)
			if !p.failed(err) && still {
				p.done("service_names", p.names.Delete(id))
			}
		}
		p.pause()
	}
}

func (p *repair) dropStrayBackends() {
	for from := uint32(0); ; {
		strays, next, err := p.backends.Strays(from)
		p.failed(err)
		for _, id := range strays {
			p.done("backends", p.backends.Clear(id))
		}
		if from = next; from == 0 {
			return
		}
		p.pause()
	}
}

func (p *repair) lookAtClusterIPs() {
	c := p.clusterIPs
	same, err := c.table.HasRanges(c.ranges())
	if !p.failed(err) && !same {
		p.done("cluster_ranges", c.writeRanges())
	}
	var differing []netip.Addr
	look := func(a netip.Addr) {
		if different, err := c.look(a); !p.failed(err) && different {
			differing = append(differing, a)
		}
	}
	for a := range c.written {
		look(a)
		p.pause()
	}
	for a, err := range c.table.Addrs() {
		if !p.failed(err) && c.written[a] == unowned {
			look(a)
		}
		p.pause()
	}
	p.failed(c.sync())
	for _, a := range differing {
		if !c.dirty[a] {
			p.found["cluster_addrs"]++
		}
	}
}

// look compares an address with the map. If it differs, the next sync corrects it.
func (c *clusterIPs) look(a netip.Addr) (different bool, err error) {
	have := unowned
	known, others, err := c.table.Get(a)
	switch {
	case err != nil:
		return false, err
	case others:
		have = theirs
	case known:
		have = ours
	}
	if have == c.written[a] {
		return false, nil
	}
	c.note(a, have)
	c.dirty[a] = true
	return true, nil
}

// tableOf returns the name of the map for an address's family.
func tableOf(name string, a netip.Addr) string { return fmt.Sprintf("%s%d", name, maps.FamilyOf(a)) }
