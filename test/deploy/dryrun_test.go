// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestDryRun has a real API server check, as `kubectl apply --server-side --dry-run=server
// --validate=strict` does, what deploy/ holds, what the chart renders with each of its values set, and
// the overlay of docs/install.md.
func TestDryRun(t *testing.T) {
	binaries := apiserver.Binaries(t)
	n, err := topo.New(topo.Options{Nodes: 1})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	machine, err := n.AddMachine("control")
	check(t, err)
	cp, err := apiserver.Start(apiserver.Options{Host: machine, Binaries: binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, cp.Stop()) })

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
