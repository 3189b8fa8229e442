// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeFile(t *testing.T) {
	type doc struct {
		Object string
		Number int
	}
	for name, test := range map[string]struct {
		path, text string
		want       []doc
		ignored    []string
		vague      bool
		broken     bool
		problems   []string
	}{
		"documents": {
			path: "a.yaml",
			text: "# a comment\n---\n" + serviceYAML("a", onePort) + "---\n---\n# nothing\n---\n" +
				"apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n",
			want: []doc{{"Service default/a", 1}, {"Node n1", 2}},
		},
		"other kinds": {
			path: "a.yml",
			text: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\n" +
				"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n---\n" +
				"apiVersion: v1\nkind: ConfigMapList\nitems: []\n",
			ignored: []string{"apps/v1 Deployment", "serving.knative.dev/v1 Service", "v1 ConfigMapList"},
		},
		"List": {
			path: "a.yaml",
			text: `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a, namespace: x}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]}
`,
			want:    []doc{{"Service x/a", 1}, {"Pod default/p", 1}},
			ignored: []string{"v1 ConfigMap"},
		},
		"list of a kind": {
			path: "a.yaml",
			text: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems: [{metadata: {name: s}}]\n",
			want: []doc{{"EndpointSlice default/s", 1}},
		},
		"JSON": {
			path: "a.json",
			text: `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}
			       {"apiVersion":"v1","kind":"Service","metadata":{"name":"b"}}`,
			want: []doc{{"Service default/a", 1}, {"Service default/b", 2}},
		},
		"no kind": {
			path:     "a.yaml",
			text:     serviceYAML("a", onePort) + "---\napiVersion: v1\nmetadata: {name: x}\n",
			want:     []doc{{"Service default/a", 1}},
			vague:    true,
			problems: []string{"a.yaml:2  kind: Required value"},
		},
		"no apiVersion": {
			path: "a.yaml", text: "kind: Service\n", vague: true,
			problems: []string{"a.yaml:1  apiVersion: Required value"},
		},
		"no kind in a List": {
			path: "a.yaml", vague: true,
			text:     "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: p}}, {apiVersion: v1}]\n",
			want:     []doc{{"Pod default/p", 1}},
			problems: []string{"a.yaml:1  items[1].kind: Required value"},
		},
		"items twice": {
			path: "a.yaml", text: "apiVersion: v1\nkind: List\nitems: []\nitems: []\n", vague: true,
			problems: []string{"a.yaml:1  items: duplicate field"},
		},
		"items that are none": {
			path: "a.yaml", text: "apiVersion: v1\nkind: List\nitems: {}\n", vague: true,
			problems: []string{"a.yaml:1  items: can't be read: object is not of type"},
		},
		"no name": {
			path: "a.yaml", text: "apiVersion: v1\nkind: Service\n", vague: true,
			problems: []string{"a.yaml:1  metadata.name: Required value: Service without a name"},
		},
		"a number for a name": {
			path: "a.yaml", text: "apiVersion: v1\nkind: Service\nmetadata: {name: 12}\n", vague: true,
			problems: []string{"a.yaml:1  metadata.name: can't be read: number is not of type string"},
		},
		"a beta EndpointSlice": {
			path: "a.yaml", text: "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n", vague: true,
			problems: []string{`a.yaml:1  apiVersion: Unsupported value: "discovery.k8s.io/v1beta1"`},
		},
		"a kind in the wrong case": {
			path: "a.yaml", text: "apiVersion: v1\nkind: service\nmetadata: {name: a}\n", vague: true,
			problems: []string{`a.yaml:1  kind: Unsupported value: "service": is Service meant?`},
		},
		"a list in the wrong case": {
			path: "a.yaml", text: "apiVersion: v1\nkind: endpointslicelist\nitems: []\n---\napiVersion: v1\nkind: list\n", vague: true,
			problems: []string{`a.yaml:1  kind: Unsupported value: "endpointslicelist": is EndpointSliceList meant?`,
				`a.yaml:2  kind: Unsupported value: "list": is List meant?`},
		},
		"a beta Service": {
			path: "a.yaml", text: "apiVersion: v1beta1\nkind: Service\nmetadata: {name: a}\n", vague: true,
			problems: []string{`a.yaml:1  apiVersion: Unsupported value: "v1beta1": supported values: "v1"`},
		},
		"an EndpointSlice without its group": {
			path: "a.yaml", text: "apiVersion: v1\nkind: EndpointSlice\n", vague: true,
			problems: []string{`a.yaml:1  apiVersion: Unsupported value: "v1": supported values: "discovery.k8s.io/v1"`},
		},
		"a Service in another group of Kubernetes'": {
			path: "a.yaml", text: "apiVersion: apps/v1\nkind: Service\n", vague: true,
			problems: []string{`a.yaml:1  apiVersion: Unsupported value: "apps/v1": supported values: "v1"`},
		},
		"names that are near ours": {
			path: "a.yaml", text: "apiVersion: metrics.k8s.io/v1beta1\nkind: PodMetrics\n---\napiVersion: v1\nkind: ServiceAccount\n---\n" +
				"apiVersion: example.com/v1\nkind: service\n---\napiVersion: v1\nkind: Endpoints\n",
			ignored: []string{"metrics.k8s.io/v1beta1 PodMetrics", "v1 ServiceAccount", "example.com/v1 service", "v1 Endpoints"},
		},
		"not a mapping": {
			path: "a.yaml", text: "- 1\n", vague: true,
			problems: []string{"a.yaml:1  : can't be read: array is not of type"},
		},
		"not YAML": {
			path: "a.yaml", broken: true,
			text:     serviceYAML("a", onePort) + "---\nspec: [\n",
			problems: []string{"a.yaml:2  : yaml: "},
		},
		"not JSON": {
			path: "a.json", text: `{"apiVersion":"v1"`, broken: true,
			problems: []string{"a.json:1  : unexpected EOF"},
		},
		"text after the end of a document": {
			path: "a.yaml", text: "a: 1\n...\nb: 1\n", broken: true,
			problems: []string{"a.yaml:1  : yaml: a second document begins without a --- line"},
		},
		"duplicate field": {
			path:     "a.yaml",
			text:     serviceYAML("a", "ports:\n- port: 80\n  protocol: TCP\n  port: 81"),
			want:     []doc{{"Service default/a", 1}},
			problems: []string{"a.yaml:1 Service default/a spec.ports[0].port: duplicate field"},
		},
		"duplicate field in a List": {
			path: "a.yaml",
			text: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n" +
				"- {apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {nodeName: a, nodeName: b}}\n",
			want:     []doc{{"Pod default/p", 1}, {"Pod default/q", 1}},
			problems: []string{"a.yaml:1 Pod default/q spec.nodeName: duplicate field"},
		},
		"duplicate field in JSON": {
			path:     "a.json",
			text:     `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},"spec":{"podCIDR":"","podCIDR":""}}`,
			want:     []doc{{"Node n1", 1}},
			problems: []string{"a.json:1 Node n1 spec.podCIDR: duplicate field"},
		},
		"unknown field": {
			path:     "a.yaml",
			text:     serviceYAML("a", "ports: [{port: 80}, {name: b, port: 81, targetport: 8}]\nclusterip: None"),
			want:     []doc{{"Service default/a", 1}},
			problems: []string{"a.yaml:1 Service default/a spec.clusterip: unknown field", "a.yaml:1 Service default/a spec.ports[1].targetport: unknown field"},
		},
		"wrong type": {
			path:     "a.yaml",
			text:     serviceYAML("a", "ports: [{port: 80}, {name: b, port: eighty}]"),
			want:     []doc{{"Service default/a", 1}},
			problems: []string{"a.yaml:1 Service default/a spec.ports[1].port: can't be read: string is not of type int32"},
		},
		"wrong type of a type that decodes itself": {
			path:     "a.yaml",
			text:     serviceYAML("a", "ports: [{port: 80, targetPort: true}]"),
			want:     []doc{{"Service default/a", 1}},
			problems: []string{"a.yaml:1 Service default/a spec.ports.targetPort: can't be read: bool is not of type int32"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := decodeFile(test.path, []byte(test.text))
			var got []doc
			problems := c.problems
			for _, d := range c.documents {
				got = append(got, doc{d.key.String(), d.number})
				problems = append(problems, d.unsound...)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.ignored, c.ignored); diff != "" {
				t.Errorf("ignored (-want +got):\n%s", diff)
			}
			if c.vague != test.vague || c.broken != test.broken {
				t.Errorf("vague %v, broken %v, want %v, %v", c.vague, c.broken, test.vague, test.broken)
			}
			wantProblems(t, "", problems, test.problems...)
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("a.yaml", []byte(serviceYAML("a", onePort)+"---\n"+serviceYAML("b", "type: NodePort\nports: [{port: 1, nodePort: 30000}]")))
	f.Add("a.yaml", []byte("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIP: 10.0.0.1}}\n"))
	f.Add("a.yaml", []byte("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nports: [{port: 1}]\nendpoints: [{addresses: [10.0.0.1]}]\n"))
	f.Add("a.json", []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`))
	f.Add("a.yaml", []byte("a: &a [*a]\n---\n? {b: 1}\n: c\n"))
	check := validator{ranges: ranges{cidrs: defaultServiceCIDRs, ports: defaultNodePortRange}}
	f.Fuzz(func(t *testing.T, path string, data []byte) {
		c := decodeFile(path, data)
		if c.broken && len(c.documents) > 0 {
			t.Fatal("a broken file has documents")
		}
		for i := range c.documents {
			d := &c.documents[i]
			check.check(d)
			if d.object == nil && len(d.unsound) == 0 {
				t.Fatalf("%s: neither an object nor a problem", d.key)
			}
			for _, p := range d.unsound {
				if p.Object == "" || p.Message == "" || p.Document == 0 {
					t.Fatalf("%s: problem lacks what it is about: %+v", d.key, p)
				}
			}
		}
	})
}
