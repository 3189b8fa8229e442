// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func podOf(name, spec, status string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: web, pod: " + name + "}}\n" +
		"spec: {" + spec + "}\nstatus: {" + status + "}\n"
}

func manifests(docs ...string) string { return strings.Join(docs, "---\n") }

// describe puts a slice in a line: its name, its ports, and its endpoints with their conditions
// (r, s and t for ready, serving and terminating), nodes, zones and hints.
func describe(s *discovery.EndpointSlice) string {
	line := s.Name
	for _, p := range s.Ports {
		line += fmt.Sprintf(" %s=%s/%d", *p.Name, *p.Protocol, *p.Port)
	}
	for _, e := range s.Endpoints {
		line += " | " + e.TargetRef.Name + " "
		if e.Hostname != nil {
			line += "(" + *e.Hostname + ") "
		}
		line += strings.Join(e.Addresses, ",") + " "
		for _, c := range []struct {
			letter string
			is     *bool
		}{{"r", e.Conditions.Ready}, {"s", e.Conditions.Serving}, {"t", e.Conditions.Terminating}} {
			if *c.is {
				line += c.letter
			}
		}
		line = strings.TrimSpace(line + " " + ptr.Deref(e.NodeName, "") + " " + ptr.Deref(e.Zone, ""))
		if e.Hints != nil {
			line += fmt.Sprint(" zones", e.Hints.ForZones, " nodes", e.Hints.ForNodes)
		}
	}
	return line
}

func TestSlices(t *testing.T) {
	const named = "ports: [{name: h, port: 80, targetPort: http}, {name: m, port: 81, targetPort: 9}]"
	port := func(name string, number int) string {
		return fmt.Sprintf("containers: [{ports: [{name: %s, containerPort: %d}]}]", name, number)
	}
	suffix := func(ports string) string {
		var p podPorts
		for _, one := range strings.Fields(ports) {
			var name string
			var number int32
			fmt.Sscanf(strings.ReplaceAll(one, "=", " "), "%s %d", &name, &number)
			p.ports = append(p.ports, discovery.EndpointPort{Name: &name, Port: &number, Protocol: ptr.To(v1.ProtocolTCP)})
		}
		return p.suffix(&v1.Service{Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{TargetPort: intstr.FromString("x")}}}})
	}
	for name, test := range map[string]struct {
		spec     string // beside the selector
		others   string
		want     []string
		problems []string
	}{
		"no Pod": {spec: onePort, want: []string{"web-IPv4 =TCP/80"}},
		"conditions": {
			spec: onePort,
			others: manifests(
				podOf("a", "", "podIP: 10.0.0.1"),
				podOf("b", "", "podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]"),
				podOf("c", "", "podIP: 10.0.0.3, phase: Succeeded"),
				podOf("d", "", "podIP: 10.0.0.4, phase: Failed"),
				strings.Replace(podOf("e", "", "podIP: 10.0.0.5"), "name: e,", "name: e, deletionTimestamp: '2026-01-01T00:00:00Z',", 1),
				podOf("f", "hostNetwork: true", "podIP: 10.0.0.6, phase: Running, conditions: [{type: Ready, status: 'True'}]"),
				strings.Replace(podOf("g", "", "podIP: 10.0.0.7"), "app: web", "app: other", 1),
				strings.Replace(podOf("h", "", "podIP: 10.0.0.8"), "name: h,", "name: h, namespace: other,", 1),
			),
			want: []string{"web-IPv4 =TCP/80 | a 10.0.0.1 rs | b 10.0.0.2 | e 10.0.0.5 st | f 10.0.0.6 rs"},
		},
		"publishNotReadyAddresses": {
			spec: onePort + "\npublishNotReadyAddresses: true",
			others: manifests(
				podOf("b", "", "podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]"),
				strings.Replace(podOf("e", "", "podIP: 10.0.0.5"), "name: e,", "name: e, deletionTimestamp: '2026-01-01T00:00:00Z',", 1),
			),
			want: []string{"web-IPv4 =TCP/80 | b 10.0.0.2 r | e 10.0.0.5 rst"},
		},
		"hostname": {
			spec: onePort,
			others: manifests(
				podOf("a", "hostname: web-0, subdomain: web", "podIP: 10.0.0.1"),
				podOf("b", "hostname: web-1, subdomain: other", "podIP: 10.0.0.2"),
				podOf("c", "subdomain: web", "podIP: 10.0.0.3"),
			),
			want: []string{"web-IPv4 =TCP/80 | a (web-0) 10.0.0.1 rs | b 10.0.0.2 rs | c 10.0.0.3 rs"},
		},
		"families": {
			spec: onePort + "\nipFamilyPolicy: RequireDualStack",
			others: manifests(
				podOf("a", "", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]"),
				podOf("b", "", "podIP: 'FD00:0::2'"),
			),
			want: []string{"web-IPv4 =TCP/80 | a 10.0.0.1 rs", "web-IPv6 =TCP/80 | a fd00::1 rs | b fd00::2 rs"},
		},
		"no address": {
			spec:     onePort,
			others:   manifests(podOf("a", "", ""), serviceYAML("also", onePort+"\nselector: {app: web}\nclusterIP: None")),
			want:     []string{"also-IPv4 =TCP/80", "web-IPv4 =TCP/80"},
			problems: []string{"a.yaml:2 Pod default/a status.podIP: Required value"},
		},
		"named ports": {
			spec: named,
			others: manifests(
				podOf("a", port("http", 8080), "podIP: 10.0.0.1"),
				podOf("b", port("http", 8081), "podIP: 10.0.0.2"),
				podOf("c", "initContainers: [{restartPolicy: Always, ports: [{name: http, containerPort: 8080}]}]", "podIP: 10.0.0.3"),
				podOf("d", "initContainers: [{ports: [{name: http, containerPort: 8080}]}]", "podIP: 10.0.0.4"),
				podOf("e", "containers: [{ports: [{name: http, containerPort: 8080, protocol: UDP}]}]", "podIP: 10.0.0.5"),
			),
			want: []string{
				"web-IPv4" + suffix("h=8080 m=9") + " h=TCP/8080 m=TCP/9 | a 10.0.0.1 rs | c 10.0.0.3 rs",
				"web-IPv4" + suffix("h=8081 m=9") + " h=TCP/8081 m=TCP/9 | b 10.0.0.2 rs",
				"web-IPv4" + suffix("m=9") + " m=TCP/9 | d 10.0.0.4 rs | e 10.0.0.5 rs",
			},
			problems: []string{
				`a.yaml:1 Service default/web spec.ports[0].targetPort: Pod default/d has no TCP port named "http"`,
				`a.yaml:1 Service default/web spec.ports[0].targetPort: Pod default/e has no TCP port named "http"`,
			},
		},
		"a Pod without any of the ports": {
			spec:     "ports: [{port: 80, targetPort: http}]",
			others:   podOf("a", "", "podIP: 10.0.0.1"),
			problems: []string{`a.yaml:1 Service default/web spec.ports[0].targetPort: Pod default/a has no TCP port named "http"`},
		},
		"zones": {
			spec: onePort,
			others: manifests(
				podOf("a", "nodeName: n1", "podIP: 10.0.0.1"), podOf("b", "nodeName: n2", "podIP: 10.0.0.2"),
				"apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n"),
			want: []string{"web-IPv4 =TCP/80 | a 10.0.0.1 rs n1 z1 | b 10.0.0.2 rs n2"},
		},
		"PreferSameZone": {
			spec: onePort + "\ntrafficDistribution: PreferSameZone",
			others: manifests(
				podOf("a", "nodeName: n1", "podIP: 10.0.0.1"),
				podOf("b", "nodeName: n1", "podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]"),
				podOf("c", "nodeName: n2", "podIP: 10.0.0.3"),
				"apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n"),
			want: []string{"web-IPv4 =TCP/80 | a 10.0.0.1 rs n1 z1 zones[{z1}] nodes[] | b 10.0.0.2  n1 z1 | c 10.0.0.3 rs n2"},
		},
		"PreferSameNode": {
			spec: onePort + "\ntrafficDistribution: PreferSameNode",
			others: manifests(
				podOf("a", "nodeName: n1", "podIP: 10.0.0.1"), podOf("c", "nodeName: n2", "podIP: 10.0.0.3"),
				"apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n"),
			want: []string{"web-IPv4 =TCP/80 | a 10.0.0.1 rs n1 z1 zones[{z1}] nodes[{n1}] | c 10.0.0.3 rs n2 zones[] nodes[{n2}]"},
		},
		"ExternalName": {spec: "type: ExternalName\nexternalName: a.example", others: podOf("a", "", "podIP: 10.0.0.1")},
	} {
		t.Run(name, func(t *testing.T) {
			text := serviceYAML("web", test.spec+"\nselector: {app: web}")
			if test.others != "" {
				text = manifests(text, test.others)
			}
			d := newDirectory(t, "a.yaml", text)
			snapshot := d.load()
			var got []string
			for _, s := range snapshot.EndpointSlices {
				got = append(got, describe(s))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("slices (-want +got):\n%s", diff)
			}
			wantProblems(t, d.path, snapshot.Problems, test.problems...)
		})
	}
}

func TestSliceLabels(t *testing.T) {
	d := newDirectory(t,
		"a.yaml", serviceYAML("web, labels: {service.kubernetes.io/service-proxy-name: x, service.kubernetes.io/headless: ''}", onePort+"\nselector: {app: web}"),
		"b.yaml", serviceYAML("none", onePort+"\nselector: {app: web}\nclusterIP: None"))
	want := map[string]map[string]string{
		"web-IPv4": {
			"kubernetes.io/service-name":               "web",
			"endpointslice.kubernetes.io/managed-by":   "manifest.waggle",
			"service.kubernetes.io/service-proxy-name": "x",
		},
		"none-IPv4": {
			"kubernetes.io/service-name":             "none",
			"endpointslice.kubernetes.io/managed-by": "manifest.waggle",
			"service.kubernetes.io/headless":         "",
		},
	}
	got := map[string]map[string]string{}
	for _, s := range d.load().EndpointSlices {
		got[s.Name] = s.Labels
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

// TestSlicesFollow checks that a change reaches the slices it concerns, and no others.
func TestSlicesFollow(t *testing.T) {
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: %s}}\n"
	b := newBench(newDirectory(t,
		"a.yaml", serviceYAML("web", onePort+"\nselector: {app: web}"),
		"b.yaml", serviceYAML("other", onePort+"\nselector: {app: other}"),
		"p.yaml", podOf("p", "nodeName: n1", "podIP: 10.0.0.1"),
		"n.yaml", fmt.Sprintf(node, "z1")))
	b.look()
	for _, step := range []struct {
		file, text string
		calls      []string
		web        string
	}{
		{"p.yaml", podOf("p", "nodeName: n1", "podIP: 10.0.0.2"), []string{"update EndpointSlice default/web-IPv4"}, "web-IPv4 =TCP/80 | p 10.0.0.2 rs n1 z1"},
		{"p.yaml", podOf("p", "nodeName: n1, priority: 1", "podIP: 10.0.0.2"), nil, "web-IPv4 =TCP/80 | p 10.0.0.2 rs n1 z1"},
		{"n.yaml", fmt.Sprintf(node, "z2"), []string{"update Node n1", "update EndpointSlice default/web-IPv4"}, "web-IPv4 =TCP/80 | p 10.0.0.2 rs n1 z2"},
		{"p.yaml", strings.Replace(podOf("p", "", "podIP: 10.0.0.2"), "app: web", "app: other", 1),
			[]string{"update EndpointSlice default/other-IPv4", "update EndpointSlice default/web-IPv4"}, "web-IPv4 =TCP/80"},
		{"a.yaml", serviceYAML("web", onePort+"\nselector: {app: other, pod: p}"), []string{"update EndpointSlice default/web-IPv4", "update Service default/web"}, "web-IPv4 =TCP/80 | p 10.0.0.2 rs"},
		{"a.yaml", serviceYAML("web", onePort+"\nselector: {app: other, pod: q}"), []string{"update EndpointSlice default/web-IPv4", "update Service default/web"}, "web-IPv4 =TCP/80"},
		{"a.yaml", serviceYAML("web", onePort), []string{"update Service default/web", "delete EndpointSlice default/web-IPv4"}, ""},
	} {
		b.write(step.file, step.text)
		wantCalls(t, b.look(), step.calls...)
		got := ""
		if s := b.slices["default/web-IPv4"]; s != nil {
			got = describe(s)
		}
		if got != step.web {
			t.Errorf("slice is %q, want %q", got, step.web)
		}
	}
}

func TestGivenSlices(t *testing.T) {
	slice := func(service, family, address string) string {
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: " + service + "}}\n" +
			"addressType: " + family + "\nports: [{port: 8080}]\nendpoints: [{addresses: ['" + address + "']}]\n"
	}
	b := newBench(newDirectory(t, "a.yaml", slice("web", "IPv4", "10.0.0.1")))
	wantCalls(t, b.look(), "add EndpointSlice default/s", "synced")
	if p := b.slices["default/s"].Ports[0]; *p.Name != "" || *p.Protocol != v1.ProtocolTCP || *p.Port != 8080 {
		t.Errorf("port is %+v, want the defaults", p)
	}
	b.write("a.yaml", slice("web", "IPv4", "10.0.0.2"))
	wantCalls(t, b.look(), "update EndpointSlice default/s")
	b.write("a.yaml", slice("web", "IPv6", "fd00::1"))
	wantCalls(t, b.look(), "delete EndpointSlice default/s", "add EndpointSlice default/s")
	b.write("a.yaml", slice("other", "IPv6", "fd00::1"))
	wantCalls(t, b.look(), "delete EndpointSlice default/s", "add EndpointSlice default/s")
}
