// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"errors"
	"maps"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// Owners of problems, besides the objects themselves.
const (
	ownerDir        = "directory"
	ownerFiles      = "files"
	ownerWatch      = "watch"
	ownerAllocation = "allocation"
	ownerAddresses  = "addresses"
	ownerHeld       = "held"
	ownerCopies     = "copies"
)

// state is all that the source knows, from the files to the delivered objects. Each look at the
// directory passes through it from top to bottom, with only what changed.
type state struct {
	log      *logrus.Entry
	problems *problems

	tree       *tree
	index      *index
	brake      *Brake // nil: none
	held       *held
	begun      bool // the directory was looked at
	allocator  *allocator
	matcher    *matcher
	waiting    keySet               // Services that were refused, to be tried again
	made       map[objectKey]keySet // slices made for each Service
	set        *pools.Set           // nil: to be evaluated again
	namespaces map[string]labels.Set
	addresses  []status.Address // that Services have of pools

	nodes    *collection[v1.Node]
	services *collection[v1.Service]
	slices   *collection[discovery.EndpointSlice]
}

func newState(opts Options, found *problems, readOnly bool) *state {
	from := ranges{cidrs: opts.ServiceCIDRs, kept: opts.KeptIPs, ports: opts.NodePortRange}
	kept := lastGood(opts.CacheDir)
	allocator := newAllocator(opts.AllocationFile, from, readOnly, kept)
	allocator.classes = opts.Classes
	return &state{
		log:       opts.Log,
		problems:  found,
		tree:      newTree(opts.Dir, opts.AllocationFile, validator{ranges: from}, kept),
		index:     newIndex(),
		brake:     opts.Brake,
		held:      newHeld(opts.Dir, kept),
		allocator: allocator,
		matcher:   newMatcher(),
		waiting:   keySet{},
		made:      map[objectKey]keySet{},
		nodes:     newCollection[v1.Node](),
		services:  newCollection[v1.Service](),
		slices:    newCollection[discovery.EndpointSlice](),
	}
}

// apply works out what the findings of a scan change. If the directory couldn't be read, all
// stays as it is.
func (s *state) apply(ctx context.Context, found findings, err error) delta {
	if err != nil {
		s.problems.set(ownerDir, []status.Problem{absentDir(s.tree.root, err)})
		return delta{}
	}
	s.problems.set(ownerDir, nil)
	s.problems.set(ownerFiles, found.problems)
	changed := s.defined(found)
	s.keepCopies(found.keeping)
	affected := s.spread(changed)
	s.allocate(ctx, changed, affected)
	s.remake(affected)
	s.problems.set(ownerHeld, s.held.problems())
	return delta{nodes: s.nodes.take(), services: s.services.take(), slices: s.slices.take()}
}

// keepCopies drops the copies of files that are gone. Held objects don't need them once the file of
// held objects is written.
func (s *state) keepCopies(err error) {
	if s.held.failed == nil {
		err = errors.Join(err, s.tree.prune())
	}
	s.problems.set(ownerCopies, s.tree.copyProblems(err))
}

// defined takes over what files define, and lists the objects that this changes.
func (s *state) defined(found findings) keySet {
	changed := s.letGo()
	if !s.begun {
		maps.Copy(changed, s.restoreHeld())
		s.begun = true
	}
	maps.Copy(changed, s.settle(s.replace(found.kept...)))
	touched := s.replace(found.changes...)
	s.hold(touched)
	maps.Copy(changed, s.settle(touched))
	maps.Copy(changed, s.giveWay())
	return changed
}

// replace takes over the changes of files, and lists the objects that they may change.
func (s *state) replace(files ...change) keySet {
	touched := keySet{}
	for _, c := range files {
		s.index.replace(c, touched)
	}
	return touched
}

// settle decides what is in force of objects, and lists those that have changed.
func (s *state) settle(touched keySet) keySet {
	changed := keySet{}
	for _, key := range touched.sorted() {
		isChanged, found := s.index.settle(key)
		s.problems.set("object "+key.String(), found)
		if isChanged {
			changed.add(key)
		}
	}
	return changed
}

// spread passes changed objects to the parts that use them, and lists the Services whose slices depend on
// them.
func (s *state) spread(changed keySet) keySet {
	affected := keySet{}
	for _, key := range changed.sorted() {
		d := s.index.inForce[key]
		switch key.kind {
		case kindNamespace, pools.KindIPAddressPool, pools.KindL2Advertisement, pools.KindCiliumPool, pools.KindCiliumL2Announcement:
			s.set = nil
		case kindPod:
			s.matcher.setPod(key, objectOf[v1.Pod](d), affected)
		case kindEndpointSlice:
			s.slices.set(key, objectOf[discovery.EndpointSlice](d))
		case kindNode:
			before := s.zoneOf(key.name)
			s.nodes.set(key, objectOf[v1.Node](d))
			if s.zoneOf(key.name) != before {
				s.matcher.servicesOnNode(key.name, affected)
			}
		}
	}
	return affected
}

// objectOf returns the object of a document, nil if there is none.
func objectOf[T any](d *document) *T {
	if d == nil {
		return nil
	}
	object, _ := any(d.object).(*T)
	return object
}

func (s *state) zoneOf(node string) string {
	if n := s.nodes.objects[objectKey{kind: kindNode, name: node}]; n != nil {
		return n.Labels[v1.LabelTopologyZone]
	}
	return ""
}

// remake makes the slices of Services again.
func (s *state) remake(affected keySet) {
	for _, key := range affected.sorted() {
		now := keySet{}
		if service := s.matcher.services[key]; service != nil {
			all, faults := makeSlices(service, s.matcher.podsOf(service), s.zoneOf)
			for _, slice := range all {
				name := objectKey{kindEndpointSlice, slice.Namespace, slice.Name}
				s.slices.set(name, slice)
				now.add(name)
			}
			s.problems.set("slices of "+key.String(), s.podProblems(key, faults))
		} else {
			s.problems.set("slices of "+key.String(), nil)
		}
		for name := range s.made[key] {
			if !now.has(name) {
				s.slices.set(name, nil)
			}
		}
		if s.made[key] = now; len(now) == 0 {
			delete(s.made, key)
		}
	}
}

// podProblems lists problems with the file of the object at fault: the Service if a port is missing.
func (s *state) podProblems(service objectKey, faults []podFault) []status.Problem {
	var found []status.Problem
	for _, f := range faults {
		at := service
		if f.port < 0 {
			at = objectKey{kindPod, f.pod.Namespace, f.pod.Name}
		}
		if d := s.index.inForce[at]; d != nil {
			found = append(found, d.fault(f.path().String(), f.message))
		}
	}
	return found
}
