// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range all {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func TestDefaults(t *testing.T) {
	single, require, prefer := ptr.To(v1.IPFamilyPolicySingleStack), ptr.To(v1.IPFamilyPolicyRequireDualStack), ptr.To(v1.IPFamilyPolicyPreferDualStack)
	cluster := ptr.To(v1.ServiceInternalTrafficPolicyCluster)
	plain := []v1.ServicePort{{Protocol: "TCP", Port: 80, TargetPort: intstr.FromInt32(80)}}
	for name, test := range map[string]struct {
		spec  string
		cidrs []string
		want  v1.ServiceSpec
	}{
		"ClusterIP": {
			spec: "ports: [{port: 80}]\nclusterIP: 10.96.0.1",
			want: v1.ServiceSpec{
				Type: "ClusterIP", Ports: plain, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster,
				IPFamilyPolicy: single, IPFamilies: []v1.IPFamily{"IPv4"},
			},
		},
		"NodePort with affinity": {
			spec: "type: NodePort\nclusterIP: fd00:10:96::1\nsessionAffinity: ClientIP\nports: [{port: 80, protocol: UDP, targetPort: http, nodePort: 30000}]",
			want: v1.ServiceSpec{
				Type: "NodePort", ClusterIP: "fd00:10:96::1", ClusterIPs: []string{"fd00:10:96::1"},
				Ports:           []v1.ServicePort{{Protocol: "UDP", Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30000}},
				SessionAffinity: "ClientIP", InternalTrafficPolicy: cluster, ExternalTrafficPolicy: "Cluster",
				SessionAffinityConfig: &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: ptr.To(int32(10800))}},
				IPFamilyPolicy:        single, IPFamilies: []v1.IPFamily{"IPv6"},
			},
		},
		"two clusterIPs and no policy": {
			spec: "ports: [{port: 80}]\nclusterIPs: ['fd00:10:96::1', 10.96.0.1]",
			want: v1.ServiceSpec{
				Type: "ClusterIP", Ports: plain, ClusterIP: "fd00:10:96::1", ClusterIPs: []string{"fd00:10:96::1", "10.96.0.1"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster,
				IPFamilyPolicy: require, IPFamilies: []v1.IPFamily{"IPv6", "IPv4"},
			},
		},
		"PreferDualStack where there is one family": {
			spec:  "ports: [{port: 80}]\nclusterIP: 10.96.0.1\nipFamilyPolicy: PreferDualStack",
			cidrs: []string{"10.96.0.0/24"},
			want: v1.ServiceSpec{
				Type: "ClusterIP", Ports: plain, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster,
				IPFamilyPolicy: prefer, IPFamilies: []v1.IPFamily{"IPv4"},
			},
		},
		"headless": {
			spec: "ports: [{port: 80}]\nclusterIP: None\nselector: {a: b}",
			want: v1.ServiceSpec{
				Type: "ClusterIP", Ports: plain, ClusterIP: "None", ClusterIPs: []string{"None"}, Selector: map[string]string{"a": "b"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster,
				IPFamilyPolicy: single, IPFamilies: []v1.IPFamily{"IPv4"},
			},
		},
		"headless without selector": {
			spec:  "clusterIP: None",
			cidrs: []string{"10.96.0.0/24"},
			want: v1.ServiceSpec{
				Type: "ClusterIP", ClusterIP: "None", ClusterIPs: []string{"None"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster,
				IPFamilyPolicy: require, IPFamilies: []v1.IPFamily{"IPv4", "IPv6"},
			},
		},
		"ExternalName": {
			spec: "type: ExternalName\nexternalName: example.org",
			want: v1.ServiceSpec{Type: "ExternalName", ExternalName: "example.org", SessionAffinity: "None"},
		},
		"LoadBalancer without node ports": {
			spec: "type: LoadBalancer\nports: [{port: 80}]\nclusterIP: 10.96.0.1\nallocateLoadBalancerNodePorts: false",
			want: v1.ServiceSpec{
				Type: "LoadBalancer", Ports: plain, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
				SessionAffinity: "None", InternalTrafficPolicy: cluster, ExternalTrafficPolicy: "Cluster",
				IPFamilyPolicy: single, IPFamilies: []v1.IPFamily{"IPv4"}, AllocateLoadBalancerNodePorts: ptr.To(false),
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, "a.yaml", serviceYAML("a", test.spec))
			opts := d.options()
			opts.ServiceCIDRs = prefixes(test.cidrs...)
			got, err := Load(opts)
			d.must(err)
			wantProblems(t, d.path, got.Problems)
			if len(got.Services) != 1 {
				t.Fatalf("%d services, want 1", len(got.Services))
			}
			if diff := cmp.Diff(test.want, got.Services[0].Spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadBalancerIngress(t *testing.T) {
	vip := ptr.To(v1.LoadBalancerIPModeVIP)
	const spec = "type: LoadBalancer\nports: [{port: 80}]\nloadBalancerIP: 192.0.2.1"
	d := newDirectory(t,
		"a.yaml", serviceYAML("a", spec),
		"b.yaml", serviceYAML("b", spec)+"status: {loadBalancer: {ingress: [{ip: 192.0.2.2}, {hostname: b.example.org}]}}\n")
	got := d.load()
	wantProblems(t, d.path, got.Problems)
	want := [][]v1.LoadBalancerIngress{
		{{IP: "192.0.2.1", IPMode: vip}},
		{{IP: "192.0.2.2", IPMode: vip}, {Hostname: "b.example.org"}},
	}
	for i, s := range got.Services {
		if diff := cmp.Diff(want[i], s.Status.LoadBalancer.Ingress); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.Name, diff)
		}
		if !*s.Spec.AllocateLoadBalancerNodePorts || s.Spec.Ports[0].NodePort == 0 {
			t.Errorf("%s has no node port", s.Name)
		}
	}
}
