// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// toolsVariable names the environment variable with the directory of helm and kustomize, which
// `make packaging-tools` compiles.
const toolsVariable = "WAGGLE_TOOLS"

// tool is the path of a program of packaging/go.mod. Without these the test is skipped.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv(toolsVariable)
	if dir == "" {
		t.Skipf("%s is not set: see make test-packages", toolsVariable)
	}
	return filepath.Join(dir, name)
}

// namespace is where deploy/waggle.yaml has its objects.
const namespace = "kube-system"

var chart = filepath.Join(root, "deploy/chart/waggle")

// TestChart: with its own values the chart is deploy/waggle.yaml.
func TestChart(t *testing.T) {
	if out, err := exec.Command(tool(t, "helm"), "lint", "--strict", chart).CombinedOutput(); err != nil {
		t.Errorf("helm lint: %v: %s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy/waggle.yaml"))
	check(t, err)
	if diff := cmp.Diff(flat(t, raw), flat(t, template(t))); diff != "" {
		t.Errorf("deploy/waggle.yaml (-) and the chart (+):\n%s", diff)
	}
}

// valueTest sets one value, as --set-json has it, and says what of the objects is another then. A nil
// is gone.
type valueTest struct {
	set  string
	want map[string]any
}

const (
	pod       = "DaemonSet waggle: spec.template.spec."
	agent     = pod + "containers.0."
	configMap = "ConfigMap waggle: data."
	digest    = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var values = []valueTest{
	{`apiServers=["10.0.0.1:6443","https://[fd00::1]:6443"]`, map[string]any{configMap + "api-servers": "10.0.0.1:6443,https://[fd00::1]:6443"}},
	{`config={"apiVersion":"x","kind":"y","mode":"nftables"}`, map[string]any{
		configMap + "config.yaml": "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"}},
	{`image.repository="registry.example.org/waggle"`, map[string]any{agent + "image": "registry.example.org/waggle:devel"}},
	{`image.tag="v0.1.0"`, map[string]any{agent + "image": "waggle:v0.1.0"}},
	{`image.digest="` + digest + `"`, map[string]any{agent + "image": "waggle:devel@" + digest}},
	{`image.pullPolicy="Always"`, map[string]any{agent + "imagePullPolicy": "Always"}},
	{`imagePullSecrets=[{"name":"registry"}]`, map[string]any{pod + "imagePullSecrets.0.name": "registry"}},
	{`extraArgs=["--socket-lb=host"]`, map[string]any{agent + "args.5": "--socket-lb=host"}},
	{`extraEnv=[{"name":"GOGC","value":"100"}]`, map[string]any{agent + "env.2.name": "GOGC", agent + "env.2.value": "100"}},
	{`restartOnConfigChange=true`, map[string]any{
		"DaemonSet waggle: spec.template.metadata.annotations.waggle/config-checksum": anything}},
	{`probePort=10247`, map[string]any{
		agent + "args.4": "--probe-bind-address=127.0.0.1:10247", agent + "ports.0.containerPort": 10247.0, agent + "ports.0.hostPort": 10247.0}},
	{`resources={"requests":{"cpu":"1"}}`, map[string]any{agent + "resources.requests.cpu": "1"}},
	{`rollingUpdate={"maxUnavailable":1}`, map[string]any{"DaemonSet waggle: spec.updateStrategy.rollingUpdate.maxUnavailable": 1.0}},
	{`nodeSelector={"pool":"edge"}`, map[string]any{pod + "nodeSelector.pool": "edge"}},
	{`tolerations=[{"key":"a","operator":"Exists"}]`, map[string]any{pod + "tolerations.0.key": "a"}},
	{`affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}]}}}`,
		map[string]any{
			pod + "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchFields.0.key":      "metadata.name",
			pod + "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchFields.0.operator": "In",
			pod + "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchFields.0.values.0": "n",
		}},
	{`priorityClassName="system-cluster-critical"`, map[string]any{pod + "priorityClassName": "system-cluster-critical"}},
	{`podLabels={"team":"net","app.kubernetes.io/name":"other"}`, map[string]any{"DaemonSet waggle: spec.template.metadata.labels.team": "net"}},
	{`podAnnotations={"note":"x"}`, map[string]any{"DaemonSet waggle: spec.template.metadata.annotations.note": "x"}},
	{`capabilities=["BPF","NET_ADMIN","PERFMON"]`, map[string]any{
		agent + "securityContext.capabilities.add.3": nil, agent + "securityContext.capabilities.add.4": nil}},
	{`privileged=true`, map[string]any{
		agent + "securityContext.privileged":         true,
		agent + "securityContext.capabilities.add.0": nil, agent + "securityContext.capabilities.add.1": nil,
		agent + "securityContext.capabilities.add.2": nil, agent + "securityContext.capabilities.add.3": nil,
		agent + "securityContext.capabilities.add.4": nil, agent + "securityContext.capabilities.drop.0": nil}},
	{`hostPID=false`, map[string]any{pod + "hostPID": false}},
	{`appArmorProfile=null`, map[string]any{pod + "securityContext.appArmorProfile.type": nil}},
	{`seLinuxOptions={"type":"container_t"}`, map[string]any{pod + "securityContext.seLinuxOptions.type": "container_t"}},
}

// anything is a value that a test does not know.
const anything = "(anything)"

// TestChartValues: each value of values.yaml changes what it is for, and nothing else.
func TestChartValues(t *testing.T) {
	before := flat(t, template(t))
	tested := map[string]bool{}
	for _, v := range values {
		name, _, _ := strings.Cut(v.set, "=")
		tested[name] = true
		t.Run(name, func(t *testing.T) {
			got := changes(before, flat(t, template(t, "--set-json", v.set)))
			for key := range got {
				if v.want[key] == anything {
					got[key] = anything
				}
			}
			if diff := cmp.Diff(v.want, got); diff != "" {
				t.Errorf("--set-json '%s' changes (-want +got):\n%s", v.set, diff)
			}
		})
	}
	for name := range chartValues(t) {
		if !tested[name] {
			t.Errorf("no test sets the value %s", name)
		}
	}
}

// chartValues are the values of values.yaml; those of the image by themselves.
func chartValues(t *testing.T) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	check(t, err)
	all := map[string]any{}
	check(t, yaml.UnmarshalStrict(raw, &all))
	image, _ := all["image"].(map[string]any)
	delete(all, "image")
	for name, value := range image {
		all["image."+name] = value
	}
	return all
}

// TestChartRefuses: what is no value, or none of its kind, ends helm with a message that names it.
func TestChartRefuses(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{`apiServer=["10.0.0.1:6443"]`, "apiServer"},
		{`image.name="waggle"`, "name"},
		{`apiServers="10.0.0.1:6443"`, "/apiServers"},
		{`apiServers=["10.0.0.1:6443,10.0.0.2:6443"]`, "/apiServers/0"},
		{`image.digest="0123"`, "/image/digest"},
		{`image.pullPolicy="Sometimes"`, "/image/pullPolicy"},
		{`extraArgs=["socket-lb=host"]`, "/extraArgs/0"},
		{`probePort=0`, "/probePort"},
		{`capabilities=["cap_bpf"]`, "/capabilities/0"},
		{`privileged="yes"`, "/privileged"},
	} {
		out, err := exec.Command(tool(t, "helm"), "template", "waggle", chart, "--set-json", c.set).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("--set-json '%s': %v: %s\nwant %s in it", c.set, err, out, c.want)
		}
	}
}

// TestKustomize: deploy/ is a base, and the overlay of docs/install.md does what it is for.
func TestKustomize(t *testing.T) {
	build := func(dir string) map[string]any {
		out, err := exec.Command(tool(t, "kustomize"), "build", dir).Output()
		if err != nil {
			t.Fatalf("kustomize build %s: %v", dir, failure(err))
		}
		return flat(t, out)
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy/waggle.yaml"))
	check(t, err)
	before := flat(t, raw)
	if diff := cmp.Diff(before, build(filepath.Join(root, "deploy"))); diff != "" {
		t.Errorf("deploy/waggle.yaml (-) and the base (+):\n%s", diff)
	}
	want := map[string]any{
		configMap + "api-servers": "10.0.0.1:6443",
		agent + "image":           "registry.example.org/waggle:v0.1.0",
	}
	if diff := cmp.Diff(want, changes(before, build(overlay(t)))); diff != "" {
		t.Errorf("the overlay changes (-want +got):\n%s", diff)
	}
}

// overlay writes the overlay that docs/install.md shows, with the path of this repository.
func overlay(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	check(t, err)
	match := regexp.MustCompile(`(?s)\n( +apiVersion: kustomize\.config\.k8s\.io/v1beta1\n.*?)\n\n?\S`).FindSubmatch(raw)
	if match == nil {
		t.Fatal("docs/install.md shows no overlay")
	}
	dir := t.TempDir()
	base, err := filepath.Abs(filepath.Join(root, "deploy"))
	check(t, err)
	base, err = filepath.Rel(dir, base)
	check(t, err)
	text := regexp.MustCompile(`(?m)^    `).ReplaceAllString(string(match[1]), "")
	text = strings.Replace(text, "- ../waggle/deploy\n", "- "+base+"\n", 1)
	check(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644))
	return dir
}

// template renders the chart.
func template(t *testing.T, more ...string) []byte {
	t.Helper()
	out, err := exec.Command(tool(t, "helm"), append([]string{"template", "waggle", chart, "--namespace", namespace}, more...)...).Output()
	if err != nil {
		t.Fatalf("helm template %v: %v", more, failure(err))
	}
	return out
}

// failure has what the command wrote to its standard error.
func failure(err error) string {
	if exit, ok := err.(*exec.ExitError); ok {
		return fmt.Sprintf("%v: %s", err, exit.Stderr)
	}
	return err.Error()
}

// documents are the objects of a manifest.
func documents(t *testing.T, raw []byte) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(string(raw), -1) {
		var object map[string]any
		check(t, yaml.UnmarshalStrict([]byte(document), &object))
		if object != nil {
			all = append(all, object)
		}
	}
	return all
}

// flat has each field of each object under its path.
func flat(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, object := range documents(t, raw) {
		metadata, _ := object["metadata"].(map[string]any)
		flatten(fmt.Sprintf("%s %s: ", object["kind"], metadata["name"]), object, out)
	}
	return out
}

func flatten(path string, value any, out map[string]any) {
	step := func(name string, value any) {
		if !strings.HasSuffix(path, " ") {
			name = "." + name
		}
		flatten(path+name, value, out)
	}
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			step(key, inner)
		}
	case []any:
		for i, inner := range value {
			step(strconv.Itoa(i), inner)
		}
	default:
		out[path] = value
	}
}

// changes are the fields that are others afterwards. One that is gone is nil.
func changes(before, after map[string]any) map[string]any {
	out := map[string]any{}
	for path, value := range after {
		if old, ok := before[path]; !ok || old != value {
			out[path] = value
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			out[path] = nil
		}
	}
	return out
}
