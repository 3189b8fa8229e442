// SPDX-License-Identifier: Apache-2.0

package control

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"
)

// served tells which objects are for this proxy, by their labels: those for no proxy in
// particular, and those for the proxy of this name if it has one.
type served string

func (name served) takes(labels map[string]string) bool {
	if _, headless := labels[v1.IsHeadlessService]; headless {
		return false
	}
	proxy, named := labels[apis.LabelServiceProxyName]
	return !named || name != "" && proxy == string(name)
}

// ours returns the object, or nil if it is not for this proxy: an object that gains such a label
// is gone for us. kube-proxy has its informers select by these labels; we do it behind the
// sources, so that no source can forget to.
func ours[T any, P interface {
	*T
	metav1.Object
}](s served, object P) P {
	if object == nil || !s.takes(object.GetLabels()) {
		return nil
	}
	return object
}

// ServeAs has the objects served that are labelled for the proxy of this name, besides those that
// are labelled for none. It is to be called before the source runs.
func (p *Proxy) ServeAs(name string) { p.served = served(name) }
