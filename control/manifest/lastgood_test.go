// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	webYAML = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
	dnsYAML = "apiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 53, protocol: UDP}]}\n"
	podYAML = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n"
)

func TestStartOrder(t *testing.T) {
	b := newBench(newDirectory(t,
		"a.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n",
		"b.yaml", webYAML+"---\n"+dnsYAML,
		"c.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"))
	wantCalls(t, b.look(), "add Node n1", "add Service default/dns", "add Service default/web", "add EndpointSlice default/s", "synced")
	wantCalls(t, b.look())
}

func TestChangeOrder(t *testing.T) {
	const selecting = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
	const node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"
	b := newBench(newDirectory(t))
	wantCalls(t, b.look(), "synced")
	b.write("a.yaml", selecting+"---\n"+podYAML+node)
	wantCalls(t, b.look(), "add Node n1", "add EndpointSlice default/web-IPv4", "add Service default/web")
	b.remove("a.yaml")
	wantCalls(t, b.look(), "delete Service default/web", "delete EndpointSlice default/web-IPv4", "delete Node n1")
}

func TestOnlyChangesAreTold(t *testing.T) {
	b := newBench(newDirectory(t, "a.yaml", webYAML+"---\n"+dnsYAML))
	b.look()
	for _, step := range []struct {
		what, text string
		want       []string
	}{
		{"a comment", "# new\n" + webYAML + "---\n" + dnsYAML, nil},
		{"another order", dnsYAML + "---\n" + webYAML, nil},
		{"one of two", dnsYAML + "---\n" + webYAML + "  # \n" + "status: {}\n", nil},
		{"a label", dnsYAML + "---\n" + serviceYAML("web, labels: {a: b}", "clusterIP: 10.96.0.1\nports: [{port: 80}]"), []string{"update Service default/web"}},
		{"one less", dnsYAML, []string{"delete Service default/web"}},
	} {
		b.write("a.yaml", step.text)
		t.Log(step.what)
		wantCalls(t, b.look(), step.want...)
		wantProblems(t, b.path, b.problems.list())
	}
}

func TestLastGoodState(t *testing.T) {
	for name, test := range map[string]struct {
		text     string
		calls    []string
		problems []string
	}{
		"a file that doesn't parse keeps all": {
			text:     "apiVersion: v1\nkind: Service\nmetadata: {name: other}\n---\nspec: [",
			problems: []string{"a.yaml:2  : yaml:"},
		},
		"an empty file keeps all": {
			text:     "",
			problems: []string{"a.yaml:0  : is empty; the objects that it held stay in force"},
		},
		"a comment is no accident": {
			text:  "# nothing any more\n",
			calls: []string{"delete Service default/dns", "delete Service default/web"},
		},
		"an invalid object keeps its state, others follow": {
			text:     webYAML[:len(webYAML)-len("80}]}\n")] + "99999, targetPort: 1}]}\n---\n" + serviceYAML("new", "clusterIP: None"),
			calls:    []string{"add Service default/new", "delete Service default/dns"},
			problems: []string{"a.yaml:1 Service default/web spec.ports[0].port: Invalid value: 99999"},
		},
		"an object with an unknown field keeps its state": {
			text:     webYAML + "statuss: {}\n---\n" + dnsYAML,
			problems: []string{"a.yaml:1 Service default/web statuss: unknown field"},
		},
		"a document that could be anything keeps what is missing": {
			text:     "apiVersion: v1\nmetadata: {name: web}\n---\n" + serviceYAML("dns, labels: {a: b}", "clusterIP: 10.96.0.2\nports: [{port: 53, protocol: UDP}]"),
			calls:    []string{"update Service default/dns"},
			problems: []string{"a.yaml:1  kind: Required value"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(newDirectory(t, "a.yaml", webYAML+"---\n"+dnsYAML))
			b.look()
			b.write("a.yaml", test.text)
			wantCalls(t, b.look(), test.calls...)
			wantProblems(t, b.path, b.problems.list(), test.problems...)
			b.write("a.yaml", webYAML+"---\n"+dnsYAML)
			b.look()
			wantProblems(t, b.path, b.problems.list())
		})
	}
}

func TestDuplicateObject(t *testing.T) {
	other := serviceYAML("web, labels: {a: b}", "clusterIP: 10.96.0.1\nports: [{port: 81}]")
	b := newBench(newDirectory(t, "b.yaml", webYAML))
	b.look()
	b.write("c.yaml", dnsYAML+"---\n"+other)
	wantCalls(t, b.look(), "add Service default/dns")
	wantProblems(t, b.path, b.problems.list(),
		"c.yaml:2 Service default/web metadata.name: is already defined in "+filepath.Join(b.path, "b.yaml")+", document 1")
	b.write("a.yaml", other)
	wantCalls(t, b.look(), "update Service default/web")
	b.remove("a.yaml")
	b.remove("b.yaml")
	wantCalls(t, b.look()) // c.yaml says the same as a.yaml did
	wantProblems(t, b.path, b.problems.list())
}

func TestSinceIsKept(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBench(newDirectory(t, "a.yaml", "kind: Service\n"))
	b.problems.now = func() time.Time { return now }
	b.look()
	now = now.Add(time.Minute)
	b.write("a.yaml", "# still wrong\nkind: Service\n")
	b.write("b.yaml", "kind: Service\n")
	b.look()
	for i, want := range []int64{1000, 1060} {
		if got := b.problems.list()[i].Since.Unix(); got != want {
			t.Errorf("problem %d is since %d, want %d", i, got, want)
		}
	}
}

func TestDirectoryVanishes(t *testing.T) {
	b := newBench(newDirectory(t, "a.yaml", webYAML))
	b.look()
	away := b.path + "-away"
	b.must(os.Rename(b.path, away))
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list(), ".:0  : the directory can't be read; everything stays in force: no such file")
	b.must(os.WriteFile(b.path, nil, 0o644))
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list(), ".:0  : the directory can't be read; everything stays in force: not a directory")
	b.must(os.Remove(b.path))
	b.must(os.Rename(away, b.path))
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list())
}

func TestLinks(t *testing.T) {
	d := newDirectory(t, "..v1/sub/a.yaml", webYAML, "..v1/b.yaml", dnsYAML, ".hidden.yaml", "kind: X\n", "readme.txt", "kind: X\n")
	link := func(target, name string) { d.must(os.Symlink(target, filepath.Join(d.path, name))) }
	link("..v1", "..data")
	link("..data/sub", "sub")
	link("..data/b.yaml", "b.yaml")
	link("..v1/sub", "zz") // seen already, by another name
	link(".", "loop")
	b := newBench(d)
	wantCalls(t, b.look(), "add Service default/dns", "add Service default/web", "synced")
	wantProblems(t, b.path, b.problems.list())

	b.remove("zz")
	b.remove("loop")
	b.remove("..v1")
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list(),
		"b.yaml:0  : can't be read; what it held stays in force: no such file", "sub:0  : can't be read; what it held stays in force: no such file")
}

// TestLastGoodStateOverRestart: what an earlier process knew of a file that doesn't parse now,
// or of an object in it, stays in force; what was removed meanwhile does not come back.
func TestLastGoodStateOverRestart(t *testing.T) {
	dir, cache := newDirectory(t, "a.yaml", webYAML+"---\n"+dnsYAML, "b.yaml", podYAML), filepath.Join(t.TempDir(), "kept")
	restart := func() *bench {
		b := newBench(dir)
		b.state.tree.kept = lastGood(cache)
		return b
	}
	wantCalls(t, restart().look(), "add Service default/dns", "add Service default/web", "synced")
	for what, step := range map[string]struct {
		text string
		want []string
	}{
		"half a file":      {webYAML + "---\nkind: [", []string{"add Service default/dns", "add Service default/web", "synced"}},
		"an empty file":    {"", []string{"add Service default/dns", "add Service default/web", "synced"}},
		"one bad object":   {webYAML + "---\n" + serviceYAML("dns", "clusterIP: 10.96.0.2\nports: [{port: 0}]"), []string{"add Service default/dns", "add Service default/web", "synced"}},
		"one bad, one off": {serviceYAML("dns", "clusterIP: 10.96.0.2\nports: [{port: 0}]"), []string{"add Service default/dns", "synced"}},
	} {
		dir.write("a.yaml", webYAML+"---\n"+dnsYAML)
		restart().look()
		b := restart()
		b.write("a.yaml", step.text)
		t.Log(what)
		wantCalls(t, b.look(), step.want...)
		if len(b.problems.list()) == 0 {
			t.Errorf("%s: no problem is reported", what)
		}
	}
	if err := os.Remove(filepath.Join(dir.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, restart().look(), "synced")
	b := restart()
	b.write("a.yaml", "kind: [")
	wantCalls(t, b.look(), "synced")
}
