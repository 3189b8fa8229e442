// SPDX-License-Identifier: Apache-2.0

package control

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"
)

// served returns the object, or nil if a label says that it is not for this proxy: an object that
// gains such a label is gone for us. kube-proxy has its informers select by these labels; we do it
// behind the sources, so that no source can forget to.
func served[T any, P interface {
	*T
	metav1.Object
}](object P) P {
	if object == nil {
		return nil
	}
	for _, label := range []string{apis.LabelServiceProxyName, v1.IsHeadlessService} {
		if _, labelled := object.GetLabels()[label]; labelled {
			return nil
		}
	}
	return object
}
