// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestDryRun has a real API server check, as `kubectl apply --server-side --dry-run=server
// --validate=strict` does, what deploy/ holds, what the chart renders with each of its values set, and
// the overlay of docs/install.md.
func TestDryRun(t *testing.T) {
	_, cp := newControlPlane(t)
	for _, name := range manifests {
		raw, err := os.ReadFile(filepath.Join(root, "deploy", name))
		check(t, err)
		dryRun(t, cp, name, raw)
	}
	kustomized, err := exec.Command(tool(t, "kustomize"), "build", overlay(t)).Output()
	check(t, err)
	dryRun(t, cp, "the overlay", kustomized)
	for _, v := range values {
		dryRun(t, cp, v.set, template(t, "--set-json", v.set))
	}
	if err := apply(t, cp, map[string]any{"apiVersion": "v1", "kind": "ServiceAccount",
		"metadata": map[string]any{"name": "waggle", "namespace": namespace, "labelz": map[string]any{}}}); err == nil {
		t.Error("the API server takes an object with an unknown field")
	}
}

// newControlPlane starts an API server on a machine of its own.
func newControlPlane(t *testing.T) (*topo.Host, *apiserver.ControlPlane) {
	t.Helper()
	binaries := apiserver.Binaries(t)
	n, err := topo.New(topo.Options{Nodes: 1})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	machine, err := n.AddMachine("control")
	check(t, err)
	cp, err := apiserver.Start(apiserver.Options{Host: machine, Binaries: binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, cp.Stop()) })
	return machine, cp
}

// TestChartInstalls has helm install the chart in the cluster of a real API server, change a value, go
// back, and remove it.
func TestChartInstalls(t *testing.T) {
	helm := tool(t, "helm")
	machine, cp := newControlPlane(t)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, cp.WriteKubeconfig(kubeconfig, apiserver.Admin))
	absolute, err := filepath.Abs(chart)
	check(t, err)
	run := func(want string, args ...string) {
		t.Helper()
		cmd := machine.Command(helm, append(args, "--namespace", namespace, "--kubeconfig", kubeconfig)...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("helm %v: %v: %s\nwant %q in it", args, err, out, want)
		}
	}
	image := func() string {
		t.Helper()
		ds, err := cp.Client().AppsV1().DaemonSets(namespace).Get(t.Context(), "waggle", metav1.GetOptions{})
		check(t, err)
		return ds.Spec.Template.Spec.Containers[0].Image
	}
	run("STATUS: deployed", "install", "waggle", absolute, "--set", "apiServers={10.0.0.1:6443}")
	configMap, err := cp.Client().CoreV1().ConfigMaps(namespace).Get(t.Context(), "waggle", metav1.GetOptions{})
	check(t, err)
	if got := configMap.Data["api-servers"]; got != "10.0.0.1:6443" {
		t.Errorf("the ConfigMap has api-servers %q", got)
	}
	run("STATUS: deployed", "upgrade", "waggle", absolute, "--reuse-values", "--set", "image.tag=v2")
	if got := image(); got != "waggle:v2" {
		t.Errorf("after the upgrade the image is %s", got)
	}
	run("Rollback was a success", "rollback", "waggle", "1")
	if got := image(); got != "waggle:devel" {
		t.Errorf("after the rollback the image is %s", got)
	}
	run("uninstalled", "uninstall", "waggle")
	for _, object := range objectPaths(t) {
		if err := cp.Client().CoreV1().RESTClient().Get().AbsPath(object).Do(t.Context()).Error(); !errors.IsNotFound(err) {
			t.Errorf("%s: %v", object, err)
		}
	}
}

// objectPaths are the paths of the chart's objects.
func objectPaths(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, object := range documents(t, template(t)) {
		all = append(all, paths[fmt.Sprint(object["kind"])]+"/waggle")
	}
	return all
}

func dryRun(t *testing.T, cp *apiserver.ControlPlane, name string, raw []byte) {
	t.Helper()
	all := documents(t, raw)
	if len(all) == 0 {
		t.Errorf("%s: no objects", name)
	}
	for _, object := range all {
		if err := apply(t, cp, object); err != nil {
			t.Errorf("%s: %s: %v", name, object["kind"], err)
		}
	}
}

// paths are where the API has the objects of a kind.
var paths = map[string]string{
	"ConfigMap":          "/api/v1/namespaces/" + namespace + "/configmaps",
	"ServiceAccount":     "/api/v1/namespaces/" + namespace + "/serviceaccounts",
	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"DaemonSet":          "/apis/apps/v1/namespaces/" + namespace + "/daemonsets",
}

// apply asks for an object without effect.
func apply(t *testing.T, cp *apiserver.ControlPlane, object map[string]any) error {
	t.Helper()
	body, err := json.Marshal(object)
	check(t, err)
	metadata, _ := object["metadata"].(map[string]any)
	path := paths[fmt.Sprint(object["kind"])]
	if path == "" {
		t.Fatalf("no path is known of kind %s", object["kind"])
	}
	return cp.Client().CoreV1().RESTClient().Patch(types.ApplyPatchType).AbsPath(path, fmt.Sprint(metadata["name"])).
		Param("dryRun", "All").Param("fieldManager", "test").Param("fieldValidation", "Strict").
		Body(body).Do(t.Context()).Error()
}
