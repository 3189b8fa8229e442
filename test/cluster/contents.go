// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Contents are what an agent has written to the maps that describe services.
type Contents struct {
	Names     map[uint32]maps.Name
	Frontends map[maps.Frontend]maps.Service
	Backends  map[uint32]maps.Backend
	Slots     map[maps.Block][]uint32
}

// Contents reads the maps of services, whether or not the agent runs.
func (a *Agent) Contents() (*Contents, error) {
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return readContents(p)
}

func readContents(p *loader.View) (c *Contents, err error) {
	c = &Contents{Slots: map[maps.Block][]uint32{}}
	if c.Names, err = maps.NewNames(p).All(); err != nil {
		return nil, err
	}
	if c.Frontends, err = maps.NewServices(p).All(); err != nil {
		return nil, err
	}
	if c.Backends, err = maps.ReadBackends(p); err != nil {
		return nil, err
	}
	for _, svc := range c.Frontends {
		for _, b := range []maps.Block{svc.External, svc.Internal} {
			if c.Slots[b], err = maps.ReadSlots(p, b); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// Endpoints are where each frontend of the named services leads to.
func (c *Contents) Endpoints(service string) map[maps.Frontend][]netip.AddrPort {
	out := map[maps.Frontend][]netip.AddrPort{}
	for f, svc := range c.Frontends {
		if c.Names[svc.ID].Name != service {
			continue
		}
		out[f] = nil
		for _, id := range append(c.Slots[svc.External], c.Slots[svc.Internal]...) {
			b := c.Backends[id]
			out[f] = append(out[f], netip.AddrPortFrom(b.Addr, b.Port))
		}
	}
	return out
}

// AwaitEndpoints waits until a service's frontends lead where a test wants them to: from then
// on, new connections do.
func (a *Agent) AwaitEndpoints(service string, done func(map[maps.Frontend][]netip.AddrPort) bool) error {
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return err
	}
	defer p.Close()
	var last map[maps.Frontend][]netip.AddrPort
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		c, err := readContents(p)
		if err != nil {
			return err
		}
		if last = c.Endpoints(service); done(last) {
			return nil
		}
	}
	return fmt.Errorf("agent on %s: service %s leads to %v; the log ends:\n%s", a.Node.Name, service, last, a.logTail())
}

// WatchFrontend looks at an IPv4 frontend without a pause, until stop is called, which returns how
// often it was looked at and how often it wasn't there: a gap too short for traffic to meet.
func (a *Agent) WatchFrontend(at netip.AddrPort, proto uint8) (stop func() (looks, missing int), err error) {
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return nil, err
	}
	addr, port := at.Addr().As4(), binary.BigEndian.AppendUint16(nil, at.Port())
	key := bpf.ServiceKey4{Addr: binary.NativeEndian.Uint32(addr[:]), Port: binary.NativeEndian.Uint16(port), Proto: proto}
	quit, ended := make(chan struct{}), make(chan struct{})
	var looks, missing int
	go func() {
		defer close(ended)
		for ; ; looks++ {
			select {
			case <-quit:
				return
			default:
			}
			var service bpf.Service
			if p.Map("services4").Lookup(&key, &service) != nil {
				missing++
			}
		}
	}()
	return func() (int, int) {
		close(quit)
		<-ended
		p.Close()
		return looks, missing
	}, nil
}

// Links lists what is attached to the node.
func (a *Agent) Links() (links []loader.LinkStatus, err error) {
	err = a.Node.Do(func() error {
		p, err := loader.Open(a.PinDir)
		if err != nil {
			return err
		}
		defer p.Close()
		links, err = p.Links()
		return err
	})
	return links, err
}

// Flows lists the records of flows that mention an address.
func (a *Agent) Flows(addr netip.AddrPort) ([]maps.Flow, error) {
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var out []maps.Flow
	err = maps.Flows(p, maps.FamilyOf(addr.Addr()), func(f maps.Flow) bool {
		for _, have := range []netip.AddrPort{f.Key.Src, f.Key.Dst, f.To.Src, f.To.Dst} {
			if have == addr {
				out = append(out, f)
				break
			}
		}
		return true
	})
	return out, err
}
