// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waggle-lb/waggle/test/topo"
)

// NodeOf is the Node object of a node, ready, in a zone ("" for none).
func NodeOf(node *topo.Node, zone string) *corev1.Node {
	o := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: map[string]string{corev1.LabelHostname: node.Name}},
		Spec: corev1.NodeSpec{
			PodCIDR:  node.PodCIDR4.String(),
			PodCIDRs: []string{node.PodCIDR4.String(), node.PodCIDR6.String()},
		},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: node.IP4.String()},
				{Type: corev1.NodeInternalIP, Address: node.IP6.String()},
				{Type: corev1.NodeHostName, Address: node.Name},
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if zone != "" {
		o.Labels[corev1.LabelTopologyZone] = zone
	}
	return o
}

// PodOf is the Pod object of a pod: bound to its node, running and ready.
func PodOf(pod *topo.Pod, labels map[string]string) *corev1.Pod {
	return BoundPod(pod.Name, pod.Node.Name, labels, pod.IP4, pod.IP6)
}

// BoundPod is a Pod object as a kubelet would report it, for a pod that need
// not exist.
func BoundPod(name, node string, labels map[string]string, addrs ...netip.Addr) *corev1.Pod {
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "server", Image: "example.invalid/server"}},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, addr := range addrs {
		o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if len(addrs) > 0 {
		o.Status.PodIP = addrs[0].String()
	}
	return o
}

// CreateNode creates a Node with its status.
func (cp *ControlPlane) CreateNode(ctx context.Context, node *corev1.Node) error {
	nodes := cp.client.CoreV1().Nodes()
	made, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status = node.Status
	_, err = nodes.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// CreatePod creates a Pod with its status, which only the status subresource takes.
func (cp *ControlPlane) CreatePod(ctx context.Context, pod *corev1.Pod) error {
	pods := cp.client.CoreV1().Pods(pod.Namespace)
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status = pod.Status
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// DeletePod deletes a Pod at once, or, with a grace period in seconds, leaves it
// terminating: the test is the kubelet that would remove it.
func (cp *ControlPlane) DeletePod(ctx context.Context, namespace, name string, grace int64) error {
	return cp.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
}

// CreateService creates a Service with its status: what a cloud's controller
// would assign. It returns the Service as the API server completed it.
func (cp *ControlPlane) CreateService(ctx context.Context, svc *corev1.Service) (*corev1.Service, error) {
	services := cp.client.CoreV1().Services(svc.Namespace)
	made, err := services.Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", svc.Name, err)
	}
	if len(svc.Status.LoadBalancer.Ingress) == 0 {
		return made, nil
	}
	made.Status = svc.Status
	return services.UpdateStatus(ctx, made, metav1.UpdateOptions{})
}
