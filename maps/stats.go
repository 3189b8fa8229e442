// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Stats are the counters by service and by backend, of which the agent makes and removes the elements, and the
// programs write to them. An element begins at zero.
type Stats struct{ services, backends *ebpf.Map }

// NewStats opens the counters.
func NewStats(p Provider) *Stats {
	return &Stats{services: p.Map(serviceStats), backends: p.Map(backendStats)}
}

const (
	serviceStats = "service_stats"
	backendStats = "backend_stats"
)

// Elements of backend_stats that are no backend's.
const (
	// passID says which walk was the last complete one.
	passID = 0
	// gone, and a service's id, is what those of its backends had that are gone.
	gone = bpf.StatsGone
)

// AddService begins to count for a service that has got an id.
func (s *Stats) AddService(id uint32) error {
	return errors.Join(
		addStats(s.services, serviceStats, id, &bpf.ServiceCounters{}, ebpf.UpdateAny),
		addStats(s.backends, backendStats, id|gone, &bpf.FlowCounters{Service: id}, ebpf.UpdateAny))
}

// AddBackend begins to count for a backend of a service that has got an id.
func (s *Stats) AddBackend(id, service uint32) error {
	return addStats(s.backends, backendStats, id, &bpf.FlowCounters{Service: service}, ebpf.UpdateAny)
}

// DropService forgets what was counted for a service.
func (s *Stats) DropService(id uint32) error {
	return errors.Join(dropStats(s.services, serviceStats, id), dropStats(s.backends, backendStats, id|gone))
}

// DropBackend forgets what was counted for a backend, but not for its service if that is still there. An agent that dies half
// way may count it twice for the service.
func (s *Stats) DropBackend(id uint32) error {
	var c, sum bpf.FlowCounters
	err := s.backends.Lookup(id, &c)
	if err == nil {
		err = s.backends.Lookup(c.Service|gone, &sum)
	}
	if err == nil {
		addCounters(&sum, &c)
		beforeWrite()
		err = s.backends.Update(c.Service|gone, &sum, ebpf.UpdateExist)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("the map %s: %w", backendStats, err)
	}
	return dropStats(s.backends, backendStats, id)
}

// Keep leaves the elements of those ids, backends with their services, makes those that are missing, and
// removes all others: for an agent that starts. What was counted goes on.
func (s *Stats) Keep(services []uint32, backends map[uint32]uint32) error {
	noService := map[uint32]bpf.ServiceCounters{}
	noBackend := map[uint32]bpf.FlowCounters{passID: {}}
	for _, id := range services {
		noService[id] = bpf.ServiceCounters{}
		noBackend[id|gone] = bpf.FlowCounters{Service: id}
	}
	for id, service := range backends {
		noBackend[id] = bpf.FlowCounters{Service: service}
	}
	return errors.Join(keepStats(s.services, serviceStats, noService), keepStats(s.backends, backendStats, noBackend))
}

func keepStats[V any](m *ebpf.Map, name string, missing map[uint32]V) error {
	var strays []uint32
	err := each(m, name, func(id uint32, _ *V) {
		if _, wanted := missing[id]; wanted {
			delete(missing, id)
		} else {
			strays = append(strays, id)
		}
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range strays {
		errs = append(errs, dropStats(m, name, id))
	}
	for id, zero := range missing {
		errs = append(errs, addStats(m, name, id, &zero, ebpf.UpdateNoExist))
	}
	return errors.Join(errs...)
}

// addStats makes an element. For what finds no room in the map nothing is counted; it works all the same.
func addStats(m *ebpf.Map, name string, id uint32, zero any, flags ebpf.MapUpdateFlags) error {
	beforeWrite()
	if err := m.Update(id, zero, flags); err != nil && !errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("the map %s: %w", name, err)
	}
	return nil
}

func dropStats(m *ebpf.Map, name string, id uint32) error {
	beforeWrite()
	if err := m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("the map %s: %w", name, err)
	}
	return nil
}

// LastPass returns the number of the last complete walk over the flows that has counted those that are active; 0 if
// there was none.
func LastPass(p Provider) (uint32, error) {
	var c bpf.FlowCounters
	err := p.Map(backendStats).Lookup(uint32(passID), &c)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the map %s: %w", backendStats, err)
	}
	return c.Active[0].Pass, nil
}

// CompletePass says that a walk has seen the flows of both families: its counts are in force.
func CompletePass(p Provider, pass uint32) error {
	var c bpf.FlowCounters
	c.Active[0].Pass = pass
	return put(p.Map(backendStats), backendStats, uint32(passID), &c)
}

// Traffic is of one direction: packets as the hooks see them, and bytes from the IP header on.
type Traffic struct{ Packets, Bytes uint64 }

// FlowStats is what was counted for a service or a backend since it has its id.
type FlowStats struct {
	Opened              uint64 // flows, and sockets that were connected
	Active              uint32 // flows that were not over at the last walk
	ToBackend, ToClient Traffic
	// Connect counts TCP connections by how long the SYN waited for its SYN-ACK, see ConnectBound; ConnectTime is the
	// sum, in microseconds.
	Connect     [len(bpf.FlowCounters{}.Connect)]uint64
	ConnectTime uint64
}

func (s *FlowStats) add(o FlowStats) {
	s.Opened += o.Opened
	s.Active += o.Active
	s.ToBackend.add(o.ToBackend)
	s.ToClient.add(o.ToClient)
	for i := range s.Connect {
		s.Connect[i] += o.Connect[i]
	}
	s.ConnectTime += o.ConnectTime
}

func (t *Traffic) add(o Traffic) {
	t.Packets += o.Packets
	t.Bytes += o.Bytes
}

// ConnectBound is the end of a bucket of FlowStats.Connect, in microseconds. The last one has none.
func ConnectBound(bucket int) uint64 { return bpf.ConnectFirst << bucket }

// ServiceStats is what was counted for a service.
type ServiceStats struct {
	FlowStats
	Refused uint64 // packets, and calls of sockets
	Dropped map[bpf.Verdict]uint64
}

// DroppedTotal is the sum over all reasons.
func (s ServiceStats) DroppedTotal() (n uint64) {
	for _, count := range s.Dropped {
		n += count
	}
	return n
}

// ReadServiceStats reads the counters of all services, by id. They may change meanwhile. What flows have is the sum over
// the services' backends.
func ReadServiceStats(p Provider) (map[uint32]ServiceStats, error) {
	out := map[uint32]ServiceStats{}
	err := each(p.Map(serviceStats), serviceStats, func(id uint32, c *bpf.ServiceCounters) {
		s := ServiceStats{Refused: c.Refused}
		for i, reason := range bpf.Drops() {
			if c.Dropped[i] > 0 {
				if s.Dropped == nil {
					s.Dropped = map[bpf.Verdict]uint64{}
				}
				s.Dropped[reason] = c.Dropped[i]
			}
		}
		out[id] = s
	})
	if err != nil {
		return nil, err
	}
	return out, readFlowStats(p, func(_ uint32, c *bpf.FlowCounters, f FlowStats) {
		if s, ok := out[c.Service]; ok {
			s.FlowStats.add(f)
			out[c.Service] = s
		}
	})
}

// ReadBackendStats reads the counters of all backends, by id.
func ReadBackendStats(p Provider) (map[uint32]FlowStats, error) {
	out := map[uint32]FlowStats{}
	return out, readFlowStats(p, func(id uint32, _ *bpf.FlowCounters, f FlowStats) {
		if id&gone == 0 {
			out[id] = f
		}
	})
}

// readFlowStats reads the elements of backends, and of what is gone of services.
func readFlowStats(p Provider, fn func(id uint32, c *bpf.FlowCounters, f FlowStats)) error {
	pass, err := LastPass(p)
	if err != nil {
		return err
	}
	return each(p.Map(backendStats), backendStats, func(id uint32, c *bpf.FlowCounters) {
		if id != passID {
			fn(id, c, decodeStats(c, pass))
		}
	})
}

// decodeStats takes the count of active flows from the last complete walk: if that met none, the count is an
// older one's, and void.
func decodeStats(c *bpf.FlowCounters, pass uint32) FlowStats {
	s := FlowStats{
		Opened:      c.Opened,
		ToBackend:   decodeTraffic(c.Traffic[bpf.ToBackend]),
		ToClient:    decodeTraffic(c.Traffic[bpf.ToClient]),
		Connect:     c.Connect,
		ConnectTime: c.ConnectTime,
	}
	if active := c.Active[pass%2]; pass != 0 && active.Pass == pass {
		s.Active = active.Flows
	}
	return s
}

func decodeTraffic(t bpf.Traffic) Traffic { return Traffic{t.Packets, t.Bytes} }

// addCounters adds what flows had to a sum; none of them is active any more.
func addCounters(sum, c *bpf.FlowCounters) {
	sum.Opened += c.Opened
	for i := range sum.Traffic {
		sum.Traffic[i].Packets += c.Traffic[i].Packets
		sum.Traffic[i].Bytes += c.Traffic[i].Bytes
	}
	for i := range sum.Connect {
		sum.Connect[i] += c.Connect[i]
	}
	sum.ConnectTime += c.ConnectTime
}
