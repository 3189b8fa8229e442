// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"
)

func TestValidateService(t *testing.T) {
	for name, test := range map[string]struct {
		spec string
		want []string // field: message
	}{
		"port 0":             {"ports: [{port: 0, targetPort: 1}]", []string{"spec.ports[0].port: Invalid value: 0"}},
		"port 65536":         {"ports: [{port: 65536, targetPort: 1}]", []string{"spec.ports[0].port: Invalid value: 65536"}},
		"no ports":           {"selector: {a: b}", []string{"spec.ports: Required value"}},
		"nodePort too low":   {"type: NodePort\nports: [{port: 1, nodePort: 29999}]", []string{"spec.ports[0].nodePort: Invalid value: 29999"}},
		"nodePort too high":  {"type: NodePort\nports: [{port: 1, nodePort: 32768}]", []string{"spec.ports[0].nodePort: Invalid value: 32768"}},
		"nodePort twice":     {"type: NodePort\nports: [{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, nodePort: 30000}]", []string{"spec.ports[1].nodePort: Duplicate value"}},
		"nodePort misplaced": {"ports: [{port: 1, nodePort: 30000}]", []string{"spec.ports[0].nodePort: Forbidden"}},
		"names twice":        {"ports: [{name: a, port: 1}, {name: a, port: 2}]", []string{"spec.ports[1].name: Duplicate value"}},
		"name missing":       {"ports: [{name: a, port: 1}, {port: 2}]", []string{"spec.ports[1].name: Required value"}},
		"protocol":           {"ports: [{port: 1, protocol: ICMP}]", []string{`spec.ports[0].protocol: Unsupported value: "ICMP"`}},
		"type":               {"type: Loadbalancer\nports: [{port: 1}]", []string{`spec.type: Unsupported value: "Loadbalancer"`}},
		"externalIPs":        {"ports: [{port: 1}]\nexternalIPs: [1.2.3.4, 1.2.3.400]", []string{`spec.externalIPs[1]: Invalid value: "1.2.3.400"`}},
		"loopback":           {"ports: [{port: 1}]\nexternalIPs: [127.0.0.1]", []string{`spec.externalIPs[0]: Invalid value: "127.0.0.1"`}},
		"loadBalancerIP":     {"type: LoadBalancer\nports: [{port: 1}]\nloadBalancerIP: x", []string{`spec.loadBalancerIP: Invalid value: "x"`}},
		"source ranges":      {"type: LoadBalancer\nports: [{port: 1}]\nloadBalancerSourceRanges: [10.0.0.0/33]", []string{"spec.LoadBalancerSourceRanges[0]: Invalid value"}},
		"selector":           {"ports: [{port: 1}]\nselector: {a b: c}", []string{"spec.selector: Invalid value"}},
		"affinity":           {"ports: [{port: 1}]\nsessionAffinity: Cookie", []string{"spec.sessionAffinity: Unsupported value"}},
		"affinity timeout":   {"ports: [{port: 1}]\nsessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}", []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401"}},
		"external policy":    {"type: NodePort\nports: [{port: 1}]\nexternalTrafficPolicy: Near", []string{"spec.externalTrafficPolicy: Unsupported value"}},
		"internal policy":    {"ports: [{port: 1}]\ninternalTrafficPolicy: Near", []string{"spec.internalTrafficPolicy: Unsupported value"}},
		"distribution":       {"ports: [{port: 1}]\ntrafficDistribution: Near", []string{"spec.trafficDistribution: Unsupported value"}},
		"targetPort":         {"ports: [{port: 1, targetPort: not_a_name_of_a_port}]", []string{"spec.ports[0].targetPort: Invalid value", "spec.ports[0].targetPort: Invalid value"}},
		"clusterIP":          {"ports: [{port: 1}]\nclusterIP: 10.96.0", []string{`spec.clusterIPs[0]: Invalid value: "10.96.0"`}},
		"clusterIP outside":  {"ports: [{port: 1}]\nclusterIP: 10.97.0.1", []string{`spec.clusterIPs[0]: Invalid value: "10.97.0.1": the provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/16, fd00:10:96::/112`}},
		"network address":    {"ports: [{port: 1}]\nclusterIP: 10.96.0.0", []string{`spec.clusterIPs[0]: Invalid value: "10.96.0.0"`}},
		"broadcast address":  {"ports: [{port: 1}]\nclusterIP: 10.96.255.255", []string{`spec.clusterIPs[0]: Invalid value: "10.96.255.255"`}},
		"clusterIP family":   {"ports: [{port: 1}]\nclusterIP: 10.96.0.1\nipFamilies: [IPv6]", []string{`spec.clusterIPs[0]: Invalid value: "10.96.0.1": expected an IPv6 value`}},
		"clusterIPs family":  {"ports: [{port: 1}]\nclusterIPs: [10.96.0.1, 10.96.0.2]", []string{"spec.clusterIPs: Invalid value"}},
		"single stack of two": {"ports: [{port: 1}]\nipFamilyPolicy: SingleStack\nclusterIPs: [10.96.0.1, 'fd00:10:96::1']",
			[]string{"spec.ipFamilyPolicy: Invalid value"}},
		"families":              {"ports: [{port: 1}]\nipFamilies: [IPv5]", []string{"spec.ipFamilies[0]: Unsupported value"}},
		"headless NodePort":     {"type: NodePort\nclusterIP: None\nports: [{port: 1}]", []string{"spec.clusterIPs[0]: Invalid value"}},
		"ExternalName":          {"type: ExternalName\nclusterIP: 10.96.0.1", []string{"spec.clusterIPs: Forbidden", "spec.externalName: Required value"}},
		"health check misplace": {"type: NodePort\nports: [{port: 1}]\nhealthCheckNodePort: 30000", []string{"spec.healthCheckNodePort: Invalid value"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, "x/a.yaml", "# first\n---\n"+serviceYAML("first", onePort)+"---\n"+serviceYAML("bad", test.spec))
			got := d.load()
			var want []string
			for _, w := range test.want {
				want = append(want, "x/a.yaml:2 Service default/bad "+w)
			}
			wantProblems(t, d.path, got.Problems, want...)
			if len(got.Services) != 1 || got.Services[0].Name != "first" {
				t.Errorf("services are %v, want the first alone", got.Services)
			}
		})
	}
}

func TestValidateOthers(t *testing.T) {
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: web}}\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"
	for name, test := range map[string]struct {
		text string
		want string // object field: message
	}{
		"Service name":     {serviceYAML("Web", onePort), "Service default/Web metadata.name: Invalid value"},
		"ingress":          {serviceYAML("w", "type: LoadBalancer\n"+onePort) + "status: {loadBalancer: {ingress: [{ip: 1.2.3}]}}\n", "Service default/w status.loadBalancer.ingress[0].ip: Invalid value"},
		"ingress misplace": {serviceYAML("w", onePort) + "status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}\n", "Service default/w status.loadBalancer.ingress: Forbidden"},
		"addressType":      {slice + "addressType: IPv5\n", "EndpointSlice default/s addressType: Unsupported value"},
		"slice address":    {slice + "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}, {addresses: ['fd00::1']}]\n", "EndpointSlice default/s endpoints[1].addresses: Invalid value"},
		"slice port":       {slice + "addressType: IPv4\nports: [{port: 70000}]\n", "EndpointSlice default/s ports[0].port: Invalid value: 70000"},
		"slice protocol":   {slice + "addressType: IPv4\nports: [{port: 1, protocol: X}]\n", "EndpointSlice default/s ports[0].protocol: Unsupported value"},
		"slice of no Service": {"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\n",
			"EndpointSlice default/s metadata.labels[kubernetes.io/service-name]: Required value"},
		"podIP":           {pod + "status: {podIP: 10.0.0}\n", "Pod default/p status.podIP: Invalid value"},
		"podIPs":          {pod + "status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}\n", "Pod default/p status.podIPs[1].ip: Invalid value"},
		"podIP and IPs":   {pod + "status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.1}]}\n", "Pod default/p status.podIPs[0].ip: Invalid value"},
		"containerPort":   {pod + "spec: {containers: [{name: c, ports: [{name: a, containerPort: 0}]}]}\n", "Pod default/p spec.containers[0].ports[0].containerPort: Invalid value: 0"},
		"container proto": {pod + "spec: {containers: [{ports: [{containerPort: 1, protocol: X}]}]}\n", "Pod default/p spec.containers[0].ports[0].protocol: Unsupported value"},
		"container names": {pod + "spec: {initContainers: [{ports: [{name: a, containerPort: 1}, {name: a, containerPort: 2}]}]}\n", "Pod default/p spec.initContainers[0].ports[1].name: Duplicate value"},
		"nodeName":        {pod + "spec: {nodeName: A_B}\n", "Pod default/p spec.nodeName: Invalid value"},
		"node address":    {node + "status: {addresses: [{type: Hostname, address: x1}, {type: InternalIP, address: x1}]}\n", "Node n1 status.addresses[1].address: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, "a.yaml", test.text)
			wantProblems(t, d.path, d.load().Problems, "a.yaml:1 "+test.want)
		})
	}
}

func TestOptions(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no directory": {func(o *Options) { o.Dir = "" }, "the directory is not given"},
		"port range":   {func(o *Options) { o.NodePortRange.Base, o.NodePortRange.Size = 65000, 1000 }, "node port range"},
		"CIDR":         {func(o *Options) { o.ServiceCIDRs = prefixes("10.0.0.1/8") }, "service CIDR 10.0.0.1/8"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := newDirectory(t).options()
			test.change(&opts)
			if _, err := New(opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}
