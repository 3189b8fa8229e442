// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestCommands: the commands' output on a node with two services, in each format.
func TestCommands(t *testing.T) {
	s, c, services := twoServices(t, modes[0])
	stream, reply := c.laptop.OpenTCP(topo.Request{To: services[1].nodePort(s.Nodes[0].IP4, echo)})
	check(t, reply.Error())
	check(t, stream.Exchange(100).Error())
	look := looker{s.agents[0]}
	t.Run("service list", func(t *testing.T) { look.serviceList(t) })
	t.Run("service get", func(t *testing.T) { look.serviceGet(t) })
	t.Run("backend list", func(t *testing.T) { look.backendList(t) })
	t.Run("flow list", func(t *testing.T) { look.flowList(t, reply) })
	t.Run("status", func(t *testing.T) { look.status(t) })
	t.Run("refusals", func(t *testing.T) { look.refusals(t) })
	check(t, s.agents[0].Stop())
	t.Run("without an agent", func(t *testing.T) { look.withoutAgent(t) })
}

// looker runs the commands that only read.
type looker struct{ agent *cluster.Agent }

// table runs a command and splits its rows, the lines below the header, into cells.
func (l looker) table(t *testing.T, args ...string) (header []string, rows [][]string) {
	t.Helper()
	out, err := l.agent.CLI(args...)
	check(t, err)
	for line := range strings.Lines(out) {
		cells := cellsOf(line)
		if header == nil {
			header = cells
			continue
		}
		if len(cells) != len(header) {
			t.Errorf("%v: %d cells in %q, want %d", args, len(cells), line, len(header))
		}
		rows = append(rows, cells)
	}
	return header, rows
}

// cellsOf splits a line where two spaces end a cell.
func cellsOf(line string) []string {
	var out []string
	for cell := range strings.SplitSeq(strings.TrimSpace(line), "  ") {
		if cell = strings.TrimSpace(cell); cell != "" {
			out = append(out, cell)
		}
	}
	return out
}

// objects runs a command with -o json and -o yaml, and expects the same objects from both.
func (l looker) objects(t *testing.T, into any, args ...string) {
	t.Helper()
	out, err := l.agent.CLI(append(args, "-o", "json")...)
	check(t, err)
	check(t, json.Unmarshal([]byte(out), into))
	other, err := l.agent.CLI(append(args, "-o", "yaml")...)
	check(t, err)
	converted, err := yaml.YAMLToJSON([]byte(other))
	check(t, err)
	var a, b any
	check(t, json.Unmarshal([]byte(out), &a))
	check(t, json.Unmarshal(converted, &b))
	if x, y := fmt.Sprint(a), fmt.Sprint(b); args[0] != "status" && args[0] != "flow" && x != y {
		t.Errorf("%v: JSON and YAML differ:\n%s\n%s", args, x, y)
	}
}

func (l looker) serviceList(t *testing.T) {
	header, rows := l.table(t, "service", "list")
	if want := []string{"NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "ENDPOINTS"}; !slices.Equal(header, want) {
		t.Errorf("header %q, want %q", header, want)
	}
	want := [][]string{
		{"default", "local", "LoadBalancer", "10.96.0.1,fd00:10:96::1", "203.0.113.1,2001:db8::1",
			"53:30010/UDP,7:30017/TCP,80:30010/TCP", "3 (3 local)"},
		{"default", "remote", "LoadBalancer", "10.96.0.2,fd00:10:96::2", "203.0.113.2,2001:db8::2",
			"53:30020/UDP,7:30027/TCP,80:30020/TCP", "3 (0 local)"},
	}
	if !slices.EqualFunc(rows, want, slices.Equal[[]string]) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	header, _ = l.table(t, "service", "list", "-o", "wide")
	if !slices.Contains(header, "BACKENDS") {
		t.Errorf("wide header %q", header)
	}
	if header, rows := l.table(t, "svc", "list", "-n", "elsewhere"); len(rows) != 0 || !strings.HasPrefix(header[0], "No services") {
		t.Errorf("of another namespace: %q %q", header, rows)
	}
	var services []struct{ Namespace, Name string }
	l.objects(t, &services, "service", "list")
	if len(services) != 2 || services[1].Name != "remote" {
		t.Errorf("as objects: %+v", services)
	}
}

func (l looker) serviceGet(t *testing.T) {
	_, rows := l.table(t, "service", "get", "remote")
	pod := "10.244.1.2:8080"
	for _, want := range [][]string{
		{"http", "TCP", "ClusterIP", "10.96.0.2:80", pod, pod},
		{"http", "TCP", "NodePort", "0.0.0.0:30020", pod, pod},
		{"http", "TCP", "LoadBalancer", "203.0.113.2:80", pod, pod},
	} {
		if !slices.ContainsFunc(rows, func(row []string) bool { return slices.Equal(row, want) }) {
			t.Errorf("no row %q in %q", want, rows)
		}
	}
	if want := 3 * 2 * 3; len(rows) != want { // ports, families, kinds
		t.Errorf("%d rows, want %d", len(rows), want)
	}
	var service struct {
		Name  string
		Ports []struct{ Protocol, IPFamily string }
	}
	l.objects(t, &service, "service", "get", "local")
	if service.Name != "local" || len(service.Ports) != portsOfService {
		t.Errorf("as an object: %+v", service)
	}
}

func (l looker) backendList(t *testing.T) {
	_, rows := l.table(t, "backend", "list")
	if len(rows) != 2*portsOfService {
		t.Errorf("%d backends, want %d", len(rows), 2*portsOfService)
	}
	want := []string{"default/local", "http", "TCP", "10.244.0.2:8080", "true", "true"}
	if !slices.ContainsFunc(rows, func(row []string) bool { return slices.Equal(row[1:], want) }) {
		t.Errorf("no row %q in %q", want, rows)
	}
	var backends []struct{ Service, Address string }
	l.objects(t, &backends, "backend", "list")
	if len(backends) != len(rows) {
		t.Errorf("%d backends as objects, %d in the table", len(backends), len(rows))
	}
}

// flowList expects the stream's two records, and none of the other service.
func (l looker) flowList(t *testing.T, stream topo.Reply) {
	_, rows := l.table(t, "flow", "list", "--service", "default/remote", "--address", "192.168.1.10", "-o", "wide")
	want := []string{"TCP", "outside", stream.Local.String(), "192.168.1.2:30027",
		stream.Remote.String(), "10.244.1.2:7070", "express", "answered,confirmed"}
	found := slices.ContainsFunc(rows, func(row []string) bool { return slices.Equal(row[:len(want)], want) })
	if !found || len(rows) != 2 {
		t.Errorf("records %q, want two, one of them %q", rows, want)
	}
	if _, rows := l.table(t, "flow", "list", "--service", "default/local"); len(rows) != 0 {
		t.Errorf("records of an unused service: %q", rows)
	}
	var flows []struct{ Service, Source string }
	l.objects(t, &flows, "flow", "list")
	if len(flows) == 0 {
		t.Error("no flows as objects")
	}
}

func (l looker) status(t *testing.T) {
	out, err := l.agent.CLI("status")
	check(t, err)
	for _, want := range []string{
		fmt.Sprintf("running (pid %d,", l.agent.Pid()), "12 service ports", "eth0", "native",
		"connect4", "waggle_xdp", "express", "192.168.1.2", "Problems\nNone.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the status doesn't contain %q:\n%s", want, out)
		}
	}
	var status struct {
		Running bool
		Agent   struct{ Node string }
	}
	l.objects(t, &status, "status")
	if !status.Running || status.Agent.Node != "node-1" {
		t.Errorf("as an object: %+v", status)
	}
	version, err := l.agent.Run("version")
	check(t, err)
	if fields := strings.Fields(version.Stdout); version.Status != 0 || len(fields) != 4 || fields[0] != "waggle" {
		t.Errorf("version: %s", version)
	}
}

// withoutAgent: the maps are the state, and the commands read them without an agent.
func (l looker) withoutAgent(t *testing.T) {
	out, err := l.agent.CLI("status")
	check(t, err)
	if !strings.Contains(out, "NOT RUNNING") {
		t.Errorf("the agent has stopped, but the status says:\n%s", out)
	}
	l.serviceList(t)
	l.backendList(t)
}

// refusals: each mistake gives one line that names it, and exit status 1.
func (l looker) refusals(t *testing.T) {
	at := func(pins string, args ...string) []string {
		return append(args, "--pin-dir", pins, "--run-dir", l.agent.RunDir)
	}
	here := func(args ...string) []string { return at(l.agent.PinDir, args...) }
	empty := t.TempDir()
	nowhere := l.agent.PinDir + "-nowhere"
	for _, c := range []struct {
		args []string
		want []string
	}{
		{here("service", "list", "-o", "xml"), []string{"-o xml", "table, wide, json, yaml"}},
		{here("service", "list", "--colour"), []string{"unknown flag: --colour"}},
		{here("service", "get"), []string{"arg"}},
		{here("service", "get", "a/b/c"), []string{"a/b/c", "NAMESPACE/NAME"}},
		{here("service", "get", "nobody"), []string{"default/nobody", "is not in the datapath"}},
		{here("service", "lsit"), []string{"lsit"}},
		{here("flow", "list", "--address", "here"), []string{"--address here", "not an IP address"}},
		{at(nowhere, "service", "list"), []string{nowhere, "has an agent run"}},
		{at(nowhere, "backend", "list"), []string{nowhere}},
		{at(nowhere, "flow", "list"), []string{nowhere}},
		{[]string{"status", "--run-dir", filepath.Join(empty, "none")}, []string{"no agent has run here", "--run-dir"}},
		{[]string{"cleanup", "--pin-dir", empty}, []string{empty, "bpf file system"}},
		{here("agent"), []string{"--manifests"}},
		{here("agent", "--manifests", empty, "--xdp", "maybe"), []string{"--xdp maybe", "auto, off, always"}},
		{here("agent", "--manifests", empty, "--deletion-brake", "7"), []string{"--deletion-brake 7"}},
		{here("agent", "--manifests", empty, "--map-size", "flows4"), []string{"--map-size flows4"}},
		// The last one with these pins: it makes the directory.
		{at(nowhere, "agent", "--manifests", empty, "--map-size", "nothing=5"), []string{"nothing", "there is no map"}},
		{here("agent", "--manifests", empty, "--snat-ports", "30000-40000"), []string{"--snat-ports", "overlap"}},
		{here("agent", "--manifests", empty, "--nodeport-addresses", "here"), []string{"--nodeport-addresses", "here"}},
		{here("agent", "--manifests", empty, "--cgroup", "/nowhere"), []string{"/nowhere"}},
	} {
		result, err := l.agent.Run(c.args...)
		check(t, err)
		checkRefusal(t, c.args, result, c.want)
	}
	_, err := loader.Cleanup(nowhere, nil)
	check(t, err)
	l.unprivileged(t, empty)
}

func (l looker) unprivileged(t *testing.T, manifests string) {
	const nobody = 65534
	for _, args := range [][]string{
		{"service", "list"}, {"backend", "list"}, {"flow", "list"}, {"status"}, {"cleanup"},
		{"agent", "--manifests", manifests},
	} {
		result, err := l.agent.RunAs(nobody, args...)
		check(t, err)
		checkRefusal(t, args, result, []string{"root"})
	}
}

func checkRefusal(t *testing.T, args []string, result cluster.Result, want []string) {
	t.Helper()
	line := result.Refusal()
	if !strings.HasPrefix(line, "waggle: ") {
		t.Errorf("waggle %s: %s, want one line", strings.Join(args, " "), result)
	}
	for _, w := range want {
		if !strings.Contains(line, w) {
			t.Errorf("waggle %s: %q, which doesn't say %q", strings.Join(args, " "), line, w)
		}
	}
}
