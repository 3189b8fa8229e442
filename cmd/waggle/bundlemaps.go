// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	gomaps "maps"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// The parts of a bundle that are read from the pinned maps.

// withPins calls write with the pinned maps.
func (b *bundle) withPins(write func(p *loader.View) error) error {
	_, err := fromPins(b.g, func(p *loader.View) (struct{}, error) { return struct{}{}, write(p) })
	return err
}

func writeCounters(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		counters, err := maps.ReadCounters(p)
		if err != nil {
			return err
		}
		return counterTable(viewCounters(counters)).write(w)
	})
}

func writeServices(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		services, err := readServices(p)
		if err != nil {
			return err
		}
		if err := serviceTable(services, true).write(w); err != nil {
			return err
		}
		for _, s := range services {
			fmt.Fprintf(w, "\n%s/%s\n", s.Namespace, s.Name)
			if err := frontendTable(s, true).write(w); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeBackends(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		backends, err := readBackends(p)
		if err != nil {
			return err
		}
		return backendTable(backends, true).write(w)
	})
}

func writeFlows(b *bundle, w io.Writer) error {
	if b.flags.flows == 0 {
		return errors.New("--flows 0")
	}
	return b.withPins(func(p *loader.View) error {
		flows := selection[flowView]{limit: b.flags.flows}
		if err := readFlows(p, flowFilter{}, flows.add); err != nil {
			return err
		}
		if err := flowTable(flows.all(), true).write(w); err != nil {
			return err
		}
		if flows.more {
			fmt.Fprintf(w, "There are more than these %d (--flows).\n", b.flags.flows)
		}
		return nil
	})
}

func writeMapAddresses(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		addrs, err := maps.NewNodeAddrs(p).All()
		fmt.Fprintln(w, "node addresses")
		for _, a := range slices.SortedFunc(gomaps.Keys(addrs), netip.Addr.Compare) {
			fmt.Fprintf(w, "  %s local %v, NodePorts %v\n", a, addrs[a].Local, addrs[a].NodePorts)
		}
		cluster := maps.NewClusterAddrs(p)
		ours, others, err2 := cluster.All()
		fmt.Fprintf(w, "cluster IPs\n  ours %v\n  others' %v\n", ours, others)
		ranges, err3 := cluster.Ranges()
		fmt.Fprintln(w, "ranges of cluster IPs")
		for _, r := range ranges {
			fmt.Fprintf(w, "  %s, drop %v\n", r.Prefix, r.Drop)
		}
		sources, err4 := maps.NewSources(p).All()
		fmt.Fprintln(w, "source ranges by the id of the service port")
		for _, id := range slices.Sorted(gomaps.Keys(sources)) {
			fmt.Fprintf(w, "  %d %v\n", id, sources[id])
		}
		return errors.Join(err, err2, err3, err4)
	})
}

func writeMapDevices(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		table := maps.NewDevices(p)
		devices, err := table.All()
		transmitting, err2 := table.Transmitting()
		for _, ifindex := range slices.Sorted(gomaps.Keys(devices)) {
			fmt.Fprintf(w, "ifindex %d: %+v, in xdp_devices %v\n", ifindex, devices[ifindex], transmitting[ifindex])
		}
		namespaces, err3 := maps.NewPodNamespaces(p).All()
		fmt.Fprintf(w, "network namespaces of pods, by cookie: %v\n", namespaces)
		ranges, err4 := maps.NewPodRanges(p).All()
		fmt.Fprintf(w, "ranges of pods: %v\n", ranges)
		return errors.Join(err, err2, err3, err4)
	})
}

func writeNextHops(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		hops, err := maps.ReadNextHops(p)
		fmt.Fprintf(w, "%d next hops\n", len(hops))
		for _, i := range slices.Sorted(gomaps.Keys(hops)) {
			h := hops[i]
			fmt.Fprintf(w, "%d: ifindex %d, neighbour %s, MAC %s, MTU %d, generation %d\n", i, h.Ifindex, h.Neighbour, h.MAC, h.MTU, h.Generation)
		}
		return err
	})
}

func writeMapSizes(b *bundle, w io.Writer) error {
	spec, err := bpf.Spec()
	if err != nil {
		return err
	}
	t := table{header: []string{"MAP", "TYPE", "KEY BYTES", "VALUE BYTES", "ELEMENTS"}, empty: "No maps."}
	return b.withPins(func(p *loader.View) error {
		for _, name := range slices.Sorted(gomaps.Keys(spec.Maps)) {
			if m := p.Map(name); m != nil {
				t.rows = append(t.rows, []string{name, m.Type().String(), fmt.Sprint(m.KeySize()), fmt.Sprint(m.ValueSize()), fmt.Sprint(m.MaxEntries())})
			}
		}
		return t.write(w)
	})
}

// plainAddresses returns the addresses that no client has: those of the node, of services and of
// endpoints. If some can't be read, the bundle hashes them like clients' addresses.
func plainAddresses(g *globals) (all []netip.Addr) {
	if own, err := node.Addresses(); err == nil {
		all = slices.AppendSeq(all, gomaps.Keys(own))
	}
	_, _ = fromPins(g, func(p *loader.View) (struct{}, error) {
		if own, err := maps.NewNodeAddrs(p).All(); err == nil {
			all = slices.AppendSeq(all, gomaps.Keys(own))
		}
		if ours, others, err := maps.NewClusterAddrs(p).All(); err == nil {
			all = slices.Concat(all, ours, others)
		}
		if frontends, err := maps.NewServices(p).All(); err == nil {
			for f := range frontends {
				all = append(all, f.Addr)
			}
		}
		if backends, err := maps.ReadBackends(p); err == nil {
			for _, b := range backends {
				all = append(all, b.Addr)
			}
		}
		return struct{}{}, nil
	})
	return all
}
