// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/control/status"
)

// Seeds of manifests: what is right, and what came near to it.
var manifestSeeds = []string{
	serviceYAML("a", onePort),
	"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n- {kind: Pod}\n",
	"apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: a}}\nspec: {nodeName: n, containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}\n",
	"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec:\n  type: LoadBalancer\n  clusterIPs: [10.96.0.9, \"fd00:10:96::9\"]\n  ipFamilyPolicy: PreferDualStack\n  externalIPs: [192.0.2.9]\n  loadBalancerSourceRanges: [10.0.0.0/8]\n  sessionAffinity: ClientIP\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 31000\n  ports: [{port: 53, protocol: UDP, nodePort: 30053}, {port: 53, name: t, targetPort: dns}]\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: VIP}, {hostname: h}]}}\n",
	`{"apiVersion":"v1","kind":"Service","metadata":{"name":"j"},"spec":{"ports":[{"port":1e9}]}}`,
	poolYAML("p", "192.0.2.0/30, 192.0.2.8-192.0.2.9") + "---\n" + balancerYAML("l", "ipFamilyPolicy: PreferDualStack"),
	"apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: c}\nspec: {blocks: [{cidr: \"2001:db8::/64\"}, {start: 192.0.2.1}], allowFirstLastIPs: \"No\", serviceSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}\n",
	"a: &a [*a]\n", "&a {<<: *a}", "---\n--- {}\n...\n", "\xff\xfe", "{", "kind: *x", "!!binary x: y",
}

// FuzzManifest: no file makes the source panic or hang, or say something else when it is read again.
func FuzzManifest(f *testing.F) {
	for _, seed := range manifestSeeds {
		f.Add([]byte(seed), false)
	}
	f.Add([]byte(manifestSeeds[5]), true)
	f.Fuzz(func(t *testing.T, data []byte, asJSON bool) {
		d := newDirectory(t, "good.yaml", serviceYAML("good", onePort), map[bool]string{false: "x.yaml", true: "x.json"}[asJSON], string(data))
		first, again := d.load(), d.load()
		if diff := cmp.Diff(first, again, cmpopts.IgnoreFields(status.Problem{}, "Since")); diff != "" {
			t.Errorf("read again (-first +again):\n%s", diff)
		}
	})
}

// FuzzAllocations: whatever the file of allocations holds, services get what is theirs, from the
// ranges, and no two the same.
func FuzzAllocations(f *testing.F) {
	for _, seed := range []string{
		``, `{"version":1,"services":{"default/a":{"clusterIPs":["10.96.0.5"],"nodePorts":[{"protocol":"TCP","port":80,"nodePort":30080}]}}}`,
		`{"version":1,"services":{"default/a":{"clusterIPs":["10.96.0.5"]},"default/b":{"clusterIPs":["10.96.0.5"]}}}`,
		`{"version":1,"services":{"":{"healthCheckNodePort":65535}}}`, `{"version":1,"services":{"default/a":null}}`,
		`{"version":2,"services":{"default/a":{"clusterIPs":["10.96.0.5"],"loadBalancerIPs":[{"address":"192.0.2.1","pool":"IPAddressPool ns/p"}]}}}`,
		`{"version":2}`, `{"version":1,"services":[]}`, `null`, `{"version":1}{"version":1}`, `{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDirectory(t, "a.yaml", serviceYAML("a", onePort), "b.yaml", serviceYAML("b", onePort))
		d.overwrite(allocationFileName, string(data))
		taken := map[string]string{}
		snapshot := d.load()
		for _, svc := range snapshot.Services {
			if other := taken[svc.Spec.ClusterIP]; svc.Spec.ClusterIP == "" || other != "" {
				t.Errorf("%s has the cluster IP %q, which is %q's", svc.Name, svc.Spec.ClusterIP, other)
			}
			taken[svc.Spec.ClusterIP] = svc.Name
		}
		if len(snapshot.Services) != 2 {
			t.Errorf("%d services, want 2; %v", len(snapshot.Services), snapshot.Problems)
		}
	})
}

// FuzzLastGood: what was kept of a file that is broken now may have become anything.
func FuzzLastGood(f *testing.F) {
	for _, seed := range manifestSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDirectory(t, "broken.yaml", "{", "good.yaml", serviceYAML("good", onePort))
		opts, err := d.options().complete()
		d.must(err)
		opts.CacheDir = t.TempDir()
		d.must(os.WriteFile(filepath.Join(opts.CacheDir, lastGood("").name(filepath.Join(d.path, "broken.yaml"))), data, 0o600))
		s := newState(opts, newProblems(opts.Log), true)
		found, err := s.tree.scan(look{}, func(string, fs.FileInfo) {})
		s.apply(context.Background(), found, err)
		if s.services.objects[objectKey{kindService, "default", "good"}] == nil {
			t.Errorf("a sound file's service is missing: %v", found.problems)
		}
	})
}
