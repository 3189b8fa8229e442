// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// given lists what Services have, as "name ip.. ports..".
func given(all map[string]*v1.Service, names ...string) []string {
	var lines []string
	for _, name := range names {
		s := all["default/"+name]
		if s == nil {
			lines = append(lines, name+" -")
			continue
		}
		line := name + " " + strings.Join(s.Spec.ClusterIPs, " ")
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				line += fmt.Sprintf(" %s/%d", p.Protocol, p.NodePort)
			}
		}
		if s.Spec.HealthCheckNodePort != 0 {
			line += fmt.Sprintf(" health/%d", s.Spec.HealthCheckNodePort)
		}
		lines = append(lines, line)
	}
	return lines
}

func wantGiven(t *testing.T, b *bench, want ...string) {
	t.Helper()
	var names []string
	for _, w := range want {
		name, _, _ := strings.Cut(w, " ")
		names = append(names, name)
	}
	if diff := cmp.Diff(want, given(b.services, names...)); diff != "" {
		t.Errorf("allocations (-want +got):\n%s", diff)
	}
}

// tight has room for few, so that choices are easy to foresee and collide.
func tight(d directory) Options {
	opts := d.options()
	opts.ServiceCIDRs = prefixes("10.0.0.0/30", "fd00::/126")
	opts.NodePortRange = utilnet.PortRange{Base: 30000, Size: 4}
	return opts
}

func clusterIPYAML(name, ip string) string {
	return serviceYAML(name, "clusterIP: "+ip+"\nports: [{port: 80}]")
}

func nodePortYAML(name string, port int) string {
	return serviceYAML(name, fmt.Sprintf("type: NodePort\nclusterIP: %s\nports: [{port: 80, nodePort: %d}]", `""`, port))
}

func TestAllocateChoices(t *testing.T) {
	d := newDirectory(t,
		"a.yaml", serviceYAML("dual", "type: LoadBalancer\nipFamilyPolicy: RequireDualStack\nexternalTrafficPolicy: Local\nports: [{name: t, port: 53}, {name: u, port: 53, protocol: UDP}, {name: w, port: 80}]"),
		"b.yaml", serviceYAML("headless", "clusterIP: None\nports: [{port: 80}]"),
		"c.yaml", serviceYAML("external", "type: ExternalName\nexternalName: a.example"),
		"d.yaml", serviceYAML("six", "ipFamilies: [IPv6]\nports: [{port: 80}]"))
	first := d.load()
	wantProblems(t, d.path, first.Problems)
	if diff := cmp.Diff(first.Services, d.load().Services); diff != "" {
		t.Errorf("the same directory gives different answers:\n%s", diff)
	}
	all := map[string]*v1.Service{}
	for _, s := range first.Services {
		all["default/"+s.Name] = s
	}
	dual := all["default/dual"].Spec
	if tcp, udp, web := dual.Ports[0].NodePort, dual.Ports[1].NodePort, dual.Ports[2].NodePort; tcp == 0 || tcp != udp || web == tcp || web == 0 {
		t.Errorf("node ports are %d, %d and %d, want the first two equal", tcp, udp, web)
	}
	if h := dual.HealthCheckNodePort; !defaultNodePortRange.Contains(int(h)) {
		t.Errorf("healthCheckNodePort is %d", h)
	}
	for i, cidr := range defaultServiceCIDRs {
		a := netip.MustParseAddr(dual.ClusterIPs[i])
		if low := plus(cidr.Addr(), 256); !cidr.Contains(a) || a.Less(low) {
			t.Errorf("clusterIPs[%d] is %s, want one above the band of %s", i, a, cidr)
		}
	}
	if got := given(all, "headless", "external"); !cmp.Equal(got, []string{"headless None", "external "}) {
		t.Errorf("got %q", got)
	}
	if ip := all["default/six"].Spec.ClusterIP; !defaultServiceCIDRs[1].Contains(netip.MustParseAddr(ip)) {
		t.Errorf("an IPv6 Service has %s", ip)
	}
}

func TestAllocateCollisions(t *testing.T) {
	type files map[string]string
	for name, test := range map[string]struct {
		before   files
		then     files // "" removes
		want     []string
		problems []string
	}{
		"the first by name wins among newcomers": {
			then:     files{"a.yaml": clusterIPYAML("b", "10.0.0.1"), "b.yaml": clusterIPYAML("a", "10.0.0.1")},
			want:     []string{"a 10.0.0.1", "b -"},
			problems: []string{`a.yaml:1 Service default/b spec.clusterIPs[0]: Invalid value: "10.0.0.1": is already allocated to Service default/a`},
		},
		"a newcomer is refused whatever its name": {
			before:   files{"b.yaml": nodePortYAML("b", 30001)},
			then:     files{"a.yaml": nodePortYAML("a", 30001)},
			problems: []string{"a.yaml:1 Service default/a spec.ports[0].nodePort: Invalid value: 30001: is already allocated to Service default/b"},
			want:     []string{"a -"},
		},
		"so it is if the other changes in the same moment": {
			before:   files{"b.yaml": nodePortYAML("b", 30001)},
			then:     files{"a.yaml": nodePortYAML("a", 30001), "b.yaml": strings.Replace(nodePortYAML("b", 30001), "name: b", "name: b, labels: {k: v}", 1)},
			problems: []string{"a.yaml:1 Service default/a spec.ports[0].nodePort: Invalid value: 30001"},
			want:     []string{"a -"},
		},
		"a port of another protocol is no collision": {
			then: files{
				"a.yaml": serviceYAML("a", "type: NodePort\nclusterIP: 10.0.0.1\nports: [{port: 53, nodePort: 30001}]"),
				"b.yaml": serviceYAML("b", "type: NodePort\nclusterIP: 10.0.0.2\nports: [{port: 53, protocol: UDP, nodePort: 30001}]"),
			},
			want: []string{"a 10.0.0.1 TCP/30001", "b 10.0.0.2 UDP/30001"},
		},
		"what is given comes before what is chosen": {
			then: files{"a.yaml": serviceYAML("a", onePort), "z.yaml": clusterIPYAML("z", "10.0.0.2")},
			want: []string{"a 10.0.0.1", "z 10.0.0.2"},
		},
		"what was chosen is not taken away": {
			before:   files{"a.yaml": clusterIPYAML("x", "10.0.0.2"), "b.yaml": serviceYAML("b", onePort)},
			then:     files{"a.yaml": clusterIPYAML("x", "10.0.0.1")},
			want:     []string{"b 10.0.0.1", "x 10.0.0.2"},
			problems: []string{`a.yaml:1 Service default/x spec.clusterIPs[0]: Invalid value: "10.0.0.1": is already allocated to Service default/b`},
		},
		"two swap": {
			before: files{"a.yaml": clusterIPYAML("a", "10.0.0.1"), "b.yaml": clusterIPYAML("b", "10.0.0.2")},
			then:   files{"a.yaml": clusterIPYAML("a", "10.0.0.2"), "b.yaml": clusterIPYAML("b", "10.0.0.1")},
			want:   []string{"a 10.0.0.2", "b 10.0.0.1"},
		},
		"a swap that fails half leaves both": {
			before: files{
				"a.yaml": clusterIPYAML("a", "10.0.0.1"),
				"b.yaml": serviceYAML("b", "type: NodePort\nclusterIP: 10.0.0.2\nports: [{port: 80, nodePort: 30000}]"),
				"c.yaml": serviceYAML("c", "type: NodePort\nipFamilies: [IPv6]\nports: [{port: 80, nodePort: 30001}]"),
			},
			then: files{
				"a.yaml": clusterIPYAML("a", "10.0.0.2"),
				"b.yaml": serviceYAML("b", "type: NodePort\nclusterIP: 10.0.0.1\nports: [{port: 80, nodePort: 30001}]"),
			},
			want: []string{"a 10.0.0.1", "b 10.0.0.2 TCP/30000"},
			problems: []string{
				`a.yaml:1 Service default/a spec.clusterIPs[0]: Invalid value: "10.0.0.2": is already allocated to Service default/b`,
				"b.yaml:1 Service default/b spec.ports[0].nodePort: Invalid value: 30001: is already allocated to Service default/c",
			},
		},
		"a rename hands over": {
			before: files{"a.yaml": clusterIPYAML("a", "10.0.0.1")},
			then:   files{"a.yaml": clusterIPYAML("b", "10.0.0.1")},
			want:   []string{"a -", "b 10.0.0.1"},
		},
		"what is released can be had": {
			before: files{"a.yaml": clusterIPYAML("a", "10.0.0.1"), "b.yaml": clusterIPYAML("b", "10.0.0.1")},
			then:   files{"a.yaml": ""},
			want:   []string{"a -", "b 10.0.0.1"},
		},
		"an address that is no longer given stays": {
			before: files{"a.yaml": clusterIPYAML("a", "10.0.0.2")},
			then:   files{"a.yaml": serviceYAML("a", onePort)},
			want:   []string{"a 10.0.0.2"},
		},
		"a node port moves between ports of a Service": {
			before: files{"a.yaml": serviceYAML("a", "type: NodePort\nclusterIP: 10.0.0.1\nports: [{name: p, port: 80, nodePort: 30000}, {name: q, port: 81, nodePort: 30001}]")},
			then:   files{"a.yaml": serviceYAML("a", "type: NodePort\nclusterIP: 10.0.0.1\nports: [{name: p, port: 80, nodePort: 30001}, {name: q, port: 81, nodePort: 30000}]")},
			want:   []string{"a 10.0.0.1 TCP/30001 TCP/30000"},
		},
		"a range that is full": {
			before:   files{"a.yaml": clusterIPYAML("a", "10.0.0.1"), "b.yaml": clusterIPYAML("b", "10.0.0.2")},
			then:     files{"c.yaml": serviceYAML("c", onePort)},
			want:     []string{"c -"},
			problems: []string{"c.yaml:1 Service default/c spec.clusterIPs[0]: Invalid value: null: nothing is left to allocate in [10.0.0.0/30]"},
		},
		"another family": {
			before: files{"a.yaml": clusterIPYAML("a", "'fd00::2'")},
			then:   files{"a.yaml": serviceYAML("a", "clusterIP: 'FD00::0003'\nipFamilyPolicy: PreferDualStack\nports: [{port: 80}]"), "b.yaml": clusterIPYAML("b", "10.0.0.1")},
			want:   []string{"a FD00::0003 10.0.0.2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t)
			b := newBenchWith(d, tight(d))
			for _, step := range []files{test.before, test.then} {
				for file, text := range step {
					if text == "" {
						b.remove(file)
					} else {
						b.write(file, text)
					}
				}
				b.look()
			}
			wantGiven(t, b, test.want...)
			wantProblems(t, b.path, b.problems.list(), test.problems...)
		})
	}
}

// TestKeptIPs: a kept address is given to a Service whose manifest names it, and stays with it, but to no other.
func TestKeptIPs(t *testing.T) {
	d := newDirectory(t, "a.yaml", serviceYAML("a", onePort), "b.yaml", serviceYAML("b", onePort))
	opts := tight(d)
	opts.KeptIPs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	b := newBenchWith(d, opts)
	b.look()
	wantGiven(t, b, "a 10.0.0.2", "b -")
	b.write("b.yaml", clusterIPYAML("b", "10.0.0.1"))
	b.look()
	wantGiven(t, b, "a 10.0.0.2", "b 10.0.0.1")
	b.write("b.yaml", serviceYAML("b", onePort))
	b.look()
	wantGiven(t, b, "b 10.0.0.1")
	wantProblems(t, b.path, b.problems.list())
}

func TestRefusedServiceIsRetried(t *testing.T) {
	d := newDirectory(t, "a.yaml", clusterIPYAML("a", "10.0.0.1"))
	b := newBenchWith(d, tight(d))
	b.look()
	b.write("b.yaml", clusterIPYAML("b", "10.0.0.1"))
	wantCalls(t, b.look())
	b.write("a.yaml", clusterIPYAML("a", "10.0.0.2"))
	wantCalls(t, b.look(), "add Service default/b", "update Service default/a")
	wantProblems(t, d.path, b.problems.list())
}

func TestBands(t *testing.T) {
	for _, test := range []struct {
		band band
		size uint64
		want uint64
	}{
		{addressBand, 16, 0}, {addressBand, 32, 16}, {addressBand, 1024, 64}, {addressBand, 65536, 256},
		{portBand, 16, 0}, {portBand, 100, 16}, {portBand, 2768, 86}, {portBand, 60000, 128},
	} {
		if got := test.band.of(test.size); got != test.want {
			t.Errorf("band %+v of %d is %d, want %d", test.band, test.size, got, test.want)
		}
	}
}

func TestProbeUsesAllAndTheBandLast(t *testing.T) {
	taken := map[netip.Addr]bool{}
	cidr := netip.MustParsePrefix("10.0.0.0/26")
	for n := range 62 {
		a, ok := chooseAddr(fmt.Sprintf("default/s%d", n), cidr, func(a netip.Addr) bool { return !taken[a] })
		if !ok || taken[a] || reserved(cidr, a) {
			t.Fatalf("choice %d is %s, %v", n, a, ok)
		}
		// 64-16 addresses are above the band, less the broadcast address.
		if low := a.Less(netip.MustParseAddr("10.0.0.16")); low != (n >= 47) {
			t.Fatalf("choice %d is %s", n, a)
		}
		taken[a] = true
	}
	if a, ok := chooseAddr("default/more", cidr, func(a netip.Addr) bool { return !taken[a] }); ok {
		t.Errorf("a full range gives %s", a)
	}
}

func TestPlusCarries(t *testing.T) {
	for _, test := range [][2]string{{"10.0.255.0", "10.1.0.255"}, {"fd00::ff00", "fd00::1:ff"}} {
		if got := plus(netip.MustParseAddr(test[0]), 511); got != netip.MustParseAddr(test[1]) {
			t.Errorf("%s + 511 is %s, want %s", test[0], got, test[1])
		}
	}
}

func TestReserved(t *testing.T) {
	for _, test := range []struct {
		cidr, addr string
		want       bool
	}{
		{"10.0.0.0/24", "10.0.0.0", true}, {"10.0.0.0/24", "10.0.0.255", true}, {"10.0.0.0/24", "10.0.0.1", false},
		{"10.0.0.0/31", "10.0.0.0", false}, {"fd00::/120", "fd00::", true}, {"fd00::/120", "fd00::ff", false},
	} {
		if got := reserved(netip.MustParsePrefix(test.cidr), netip.MustParseAddr(test.addr)); got != test.want {
			t.Errorf("%s of %s is reserved: %v, want %v", test.addr, test.cidr, got, test.want)
		}
	}
}
