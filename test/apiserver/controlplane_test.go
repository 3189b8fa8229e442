// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestControlPlane sees the real controller make slices of pods and services, asks with limited
// rights, and kills the API server.
func TestControlPlane(t *testing.T) {
	binaries := apiserver.Binaries(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	n, err := topo.New(topo.Defaults())
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	machine, err := n.AddMachine("control")
	check(t, err)
	cp, err := apiserver.Start(apiserver.Options{Host: machine, Binaries: binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, cp.Stop()) })

	for _, node := range n.Nodes {
		check(t, cp.CreateNode(ctx, apiserver.NodeOf(node, "")))
	}
	pod, err := n.Nodes[0].AddPod("web", topo.PodOptions{})
	check(t, err)
	labels := map[string]string{"app": "web"}
	check(t, cp.CreatePod(ctx, apiserver.PodOf(pod, labels)))
	dual := corev1.IPFamilyPolicyRequireDualStack
	_, err = cp.CreateService(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			Selector: labels, IPFamilyPolicy: &dual,
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	})
	check(t, err)
	awaitSlices(ctx, t, cp, pod)

	cp.APIServer.Kill()
	check(t, cp.APIServer.Start())
	awaitSlices(ctx, t, cp, pod)

	user, err := cp.ServiceAccount(ctx, metav1.NamespaceDefault, "default")
	check(t, err)
	limited, err := cp.ClientFor(user)
	check(t, err)
	if _, err := limited.CoreV1().Services("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a service account without rights lists services: %v", err)
	}
}

// awaitSlices waits until a service's slices hold a pod's addresses of both families.
func awaitSlices(ctx context.Context, t *testing.T, cp *apiserver.ControlPlane, pod *topo.Pod) {
	t.Helper()
	var have []string
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		slicesOf := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"}
		list, err := cp.Client().DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, slicesOf)
		if err != nil {
			return false, err
		}
		have = nil
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				have = append(have, e.Addresses...)
			}
		}
		return slices.Contains(have, pod.IP4.String()) && slices.Contains(have, pod.IP6.String()), nil
	})
	if err != nil {
		t.Fatalf("slices hold %v, not %s and %s: %v", have, pod.IP4, pod.IP6, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
