// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/test/apiserver"
)

// The products whose pools are read, and the files of their modules that define these.
var (
	metallbCRDs = crds{
		module: "go.universe.tf/metallb", version: "v0.16.2", sum: "h1:RCSAGoZmqcvTg0e56+Okbwz8iTuQVX30JpKX5mYEPUM=",
		files: []string{"config/crd/bases/metallb.io_ipaddresspools.yaml", "config/crd/bases/metallb.io_l2advertisements.yaml"},
	}
	ciliumCRDs = crds{
		module: "github.com/cilium/cilium", version: "v1.18.4", sum: "h1:/HrbeMmk46UDkJs4uJemIqxB7wuZ+QRMNVscNYua5C8=",
		files: []string{
			"pkg/k8s/apis/cilium.io/client/crds/v2/ciliumloadbalancerippools.yaml",
			"pkg/k8s/apis/cilium.io/client/crds/v2alpha1/ciliuml2announcementpolicies.yaml",
		},
	}
)

// crds are definitions in a module, which is fetched as any other is and, as by go.sum, must be the one that is meant.
type crds struct {
	module, version, sum string
	files                []string
}

var fetching sync.Mutex

func (c crds) read(t *testing.T) (all []*unstructured.Unstructured) {
	t.Helper()
	fetching.Lock()
	defer fetching.Unlock()
	cmd := exec.Command("go", "mod", "download", "-json", c.module+"@"+c.version)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	check(t, err)
	var module struct{ Dir, Sum string }
	check(t, json.Unmarshal(out, &module))
	if module.Sum != c.sum {
		t.Fatalf("%s@%s has the sum %s, not %s", c.module, c.version, module.Sum, c.sum)
	}
	for _, file := range c.files {
		raw, err := os.ReadFile(filepath.Join(module.Dir, file))
		check(t, err)
		object := &unstructured.Unstructured{}
		check(t, yaml.Unmarshal(raw, &object.Object))
		all = append(all, object)
	}
	return all
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func (s *setup) dynamic(t *testing.T) dynamic.Interface {
	t.Helper()
	config, err := s.cp.Config(apiserver.Admin)
	check(t, err)
	client, err := dynamic.NewForConfig(config)
	check(t, err)
	return client
}

// install creates the definitions, and waits until the API server serves them.
func (s *setup) install(t *testing.T, c crds) {
	t.Helper()
	client := s.dynamic(t).Resource(definitions)
	for _, object := range c.read(t) {
		_, err := client.Create(s.ctx, object, metav1.CreateOptions{})
		check(t, err)
		s.await(t, object.GetName()+" to be served", func() bool {
			now, err := client.Get(s.ctx, object.GetName(), metav1.GetOptions{})
			check(t, err)
			conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
			for _, c := range conditions {
				if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
					return true
				}
			}
			return false
		})
	}
}

// await waits for something that others bring about.
func (s *setup) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(s.ctx, 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// The resources of pools.
var (
	ipAddressPools = schema.GroupVersionResource{Group: "metallb.io", Version: "v1beta1", Resource: "ipaddresspools"}
	ciliumPools    = schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumloadbalancerippools"}
)

const metallbNamespace = "metallb-system"

// pool creates or replaces a pool of MetalLB's.
func (s *setup) pool(t *testing.T, name string, addresses ...any) {
	t.Helper()
	client := s.dynamic(t).Resource(ipAddressPools).Namespace(metallbNamespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
		"metadata": map[string]any{"name": name, "namespace": metallbNamespace}, "spec": map[string]any{"addresses": addresses},
	}}
	if before, err := client.Get(s.ctx, name, metav1.GetOptions{}); err == nil {
		object.SetResourceVersion(before.GetResourceVersion())
		_, err = client.Update(s.ctx, object, metav1.UpdateOptions{})
		check(t, err)
		return
	}
	_, err := client.Create(s.ctx, object, metav1.CreateOptions{})
	check(t, err)
}

func (s *setup) namespace(t *testing.T, name string) {
	t.Helper()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := s.cp.Client().CoreV1().Namespaces().Create(s.ctx, object, metav1.CreateOptions{})
	check(t, err)
}
