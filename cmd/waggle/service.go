// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/loader"
)

func newService(g *globals) *cobra.Command {
	return newGroup("service", []string{"services", "svc"}, "Show the services in the datapath",
		newServiceList(g), newServiceGet(g))
}

func newServiceList(g *globals) *cobra.Command {
	var out output
	var again watchFlags
	var in namespaceFlags
	sorted := sortFlag[serviceView]{keys: serviceOrders}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List services",
		Long: "List services.\n\n" +
			"-o wide also shows rates: it reads the counters twice, a second apart.\n\n" +
			"With --watch, the command prints a service again when its frontends, their backends or\n" +
			"their source ranges have changed, and once more when it is gone. Counters and rates don't count as changes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			services := selection[serviceView]{order: sorted.order(), objects: []serviceView{}}
			var past *counters // of the last read
			read := func(fn func(serviceView) bool) error { return in.read(g, out.wide(), &past, fn) }
			if !again.watch {
				if err := read(services.add); err != nil {
					return err
				}
				return out.print(cmd.OutOrStdout(), services.all(), func(wide bool) table { return serviceTable(services.all(), wide) })
			}
			w := watch[[2]string, serviceView]{
				out: &out, events: again.events, order: sorted.order(),
				read:  read,
				id:    func(s serviceView) [2]string { return [2]string{s.Namespace, s.Name} },
				same:  sameService,
				table: serviceTable,
			}
			return w.run(cmd)
		},
	}
	out.addFlag(cmd)
	again.add(cmd)
	sorted.add(cmd, "namespace", "order by a column")
	in.add(cmd)
	return cmd
}

// namespaceFlags select the services of a list.
type namespaceFlags struct {
	one string
	all bool
}

func (f *namespaceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.one, "namespace", "n", "", "only this namespace (default: all)")
	cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces (the default)")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
}

func (f *namespaceFlags) read(g *globals, rates bool, past **counters, fn func(serviceView) bool) error {
	services, err := fromPins(g, func(p *loader.View) ([]serviceView, error) {
		services, err := readServices(p)
		if err != nil || !rates {
			return services, err
		}
		return services, measureServices(p, services, past)
	})
	if err != nil {
		return err
	}
	for _, s := range services {
		if (f.one == "" || s.Namespace == f.one) && !fn(s) {
			break
		}
	}
	return nil
}

// serviceOrders are the columns that services can be sorted by. The order by namespace is also that of
// services which are equal in another column.
var serviceOrders = []sortKey[serviceView]{
	{"namespace", func(a, b serviceView) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}},
	{"name", func(a, b serviceView) int { return cmp.Compare(a.Name, b.Name) }},
	{"type", func(a, b serviceView) int { return cmp.Compare(a.Type, b.Type) }},
	{"endpoints", func(a, b serviceView) int { return cmp.Compare(summarize(a).count, summarize(b).count) }},
}

func newServiceGet(g *globals) *cobra.Command {
	var out output
	var namespace string
	cmd := &cobra.Command{
		Use:   "get NAME | NAMESPACE/NAME",
		Short: "Show one service: its frontends, and the backends of each",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, name, err := splitName(args[0], namespace, cmd.Flags().Changed("namespace"))
			if err != nil {
				return err
			}
			service, err := openService(g, in, name, out.wide())
			if err != nil {
				return err
			}
			return out.printAs(cmd.OutOrStdout(), service, func(w io.Writer) error {
				if err := frontendTable(service, out.wide()).write(w); err != nil || !out.wide() {
					return err
				}
				fmt.Fprintln(w)
				return portTable(service).write(w)
			})
		},
	}
	out.addFlag(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "the service's namespace")
	return cmd
}

// splitName splits NAMESPACE/NAME. A NAME alone is in the namespace of the flag.
func splitName(arg, namespace string, given bool) (in, name string, err error) {
	in, name, both := strings.Cut(arg, "/")
	switch {
	case !both:
		return namespace, arg, nil
	case in == "" || name == "" || strings.Contains(name, "/"):
		return "", "", fmt.Errorf("%s: want NAME or NAMESPACE/NAME", arg)
	case given && namespace != in:
		return "", "", fmt.Errorf("%s: --namespace is %s", arg, namespace)
	}
	return in, name, nil
}

// openService reads one service, and on request its rates.
func openService(g *globals, namespace, name string, rates bool) (serviceView, error) {
	return fromPins(g, func(p *loader.View) (serviceView, error) {
		services, err := readServices(p)
		if err != nil {
			return serviceView{}, err
		}
		i := slices.IndexFunc(services, func(s serviceView) bool { return s.Namespace == namespace && s.Name == name })
		if i < 0 {
			return serviceView{}, fmt.Errorf("service %s/%s is not in the datapath", namespace, name)
		}
		if rates {
			var past *counters
			err = measureServices(p, services[i:i+1], &past)
		}
		return services[i], err
	})
}

// sameService reports whether a service is unchanged, apart from what is counted.
func sameService(a, b serviceView) bool { return reflect.DeepEqual(a.uncounted(), b.uncounted()) }

func (s serviceView) uncounted() serviceView {
	s.Ports = slices.Clone(s.Ports)
	for i := range s.Ports {
		port := &s.Ports[i]
		port.counted, port.Backends = nil, slices.Clone(port.Backends)
		for j := range port.Backends {
			port.Backends[j].counted = nil
		}
	}
	return s
}

func serviceTable(services []serviceView, wide bool) table {
	t := table{
		header: []string{"NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "ENDPOINTS"},
		empty:  "No services in the datapath.",
	}
	if wide {
		t.header = append(append(t.header, "BACKENDS", "ID"), trafficColumns...)
		t.header = append(t.header, failureColumns...)
	}
	for _, s := range services {
		sum := summarize(s)
		external := orNone(sum.externalIPs)
		if s.Pending && len(sum.externalIPs) == 0 {
			external = "<pending>"
		}
		row := []string{s.Namespace, s.Name, s.Type, orNone(sum.clusterIPs), external,
			orNone(sum.ports), fmt.Sprintf("%d (%d local)", sum.count, sum.local)}
		if wide {
			total := trafficOf(s)
			row = append(append(row, orNone(sum.endpoints), orNone(sum.ids)), total.cells()...)
			row = append(row, total.failures()...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

type summary struct {
	clusterIPs, externalIPs, ports, endpoints, ids []string
	count, local                                   int // of endpoints, in one family
}

// summarize collects the columns of `kubectl get service`.
func summarize(s serviceView) summary {
	var sum summary
	add := func(list *[]string, v string) {
		if !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	for _, port := range s.Ports {
		add(&sum.ids, fmt.Sprint(port.ID))
		var number, nodePort uint16
		for _, f := range port.Frontends {
			switch f.Kind {
			case "ClusterIP":
				add(&sum.clusterIPs, f.Address.Addr().String())
				number = f.Address.Port()
			case "NodePort":
				nodePort = f.Address.Port()
			default:
				add(&sum.externalIPs, f.Address.Addr().String())
			}
		}
		add(&sum.ports, portSpec(number, nodePort, port.Proto))
		for _, b := range port.Backends {
			add(&sum.endpoints, b.Address.String())
		}
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		count, local := countEndpoints(s, family)
		sum.count, sum.local = max(sum.count, count), max(sum.local, local)
	}
	return sum
}

// countEndpoints counts those of one family: a pod of a dual-stack service has one in each.
func countEndpoints(s serviceView, family string) (count, local int) {
	seen := map[netip.AddrPort]bool{}
	for _, port := range s.Ports {
		for _, b := range port.Backends {
			if port.IPFamily != family || seen[b.Address] {
				continue
			}
			seen[b.Address] = true
			count++
			if b.Local {
				local++
			}
		}
	}
	return count, local
}

// portSpec formats a port as kubectl does: 80:30008/TCP.
func portSpec(port, nodePort uint16, proto string) string {
	if nodePort != 0 {
		return fmt.Sprintf("%d:%d/%s", port, nodePort, proto)
	}
	return fmt.Sprintf("%d/%s", port, proto)
}

func frontendTable(s serviceView, wide bool) table {
	t := table{
		header: []string{"PORT", "PROTOCOL", "KIND", "FRONTEND", "FROM OUTSIDE", "FROM THIS NODE"},
		empty:  "The service has no frontends.",
	}
	// Columns without content are left out.
	guarded := slices.ContainsFunc(s.Ports, func(p portView) bool { return len(p.SourceRanges) > 0 })
	sticky := slices.ContainsFunc(s.Ports, func(p portView) bool { return p.AffinitySeconds > 0 })
	if guarded {
		t.header = append(t.header, "CLIENTS")
	}
	if sticky {
		t.header = append(t.header, "AFFINITY")
	}
	if wide {
		t.header = append(t.header, "IP FAMILY", "ID")
	}
	for _, port := range s.Ports {
		addr := backendAddresses(port)
		for _, f := range port.Frontends {
			row := []string{cmp.Or(port.Name, "<unnamed>"), port.Proto, f.Kind, f.Address.String(),
				backendList(f.External, f.ExternalDrop, addr), backendList(f.Internal, f.InternalDrop, addr)}
			if guarded {
				row = append(row, clientList(port, f))
			}
			if sticky {
				row = append(row, (time.Duration(port.AffinitySeconds) * time.Second).String())
			}
			if wide {
				row = append(row, port.IPFamily, fmt.Sprint(port.ID))
			}
			t.rows = append(t.rows, row)
		}
	}
	return t
}

// backendAddresses returns the addresses of a port's backends by id, with a mark for those on this node.
func backendAddresses(port portView) map[uint32]string {
	addr := map[uint32]string{}
	for _, b := range port.Backends {
		addr[b.ID] = b.Address.String()
		if b.Local {
			addr[b.ID] += " (local)"
		}
	}
	return addr
}

// clientList returns the clients that a frontend is for.
func clientList(port portView, f frontendView) string {
	if !f.Guarded {
		return "<all>"
	}
	var out []string
	for _, p := range port.SourceRanges {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

func backendList(ids []uint32, drop bool, addr map[uint32]string) string {
	switch {
	case len(ids) == 0 && drop:
		return "<dropped>"
	case len(ids) == 0:
		return "<refused>"
	}
	var out []string
	for _, id := range ids {
		out = append(out, addr[id])
	}
	return strings.Join(out, ", ")
}
