// SPDX-License-Identifier: Apache-2.0

package kube

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/kubernetes/pkg/proxy/apis"
)

// selector takes what is not headless and, unless `named`, for no service proxy in particular.
// Where we have a name, or have to know the cluster IPs of others' services, all of them come, and
// what is for others is left out behind the source.
func selector(named bool) labels.Selector {
	absent := []string{v1.IsHeadlessService}
	if !named {
		absent = append(absent, apis.LabelServiceProxyName)
	}
	s := labels.NewSelector()
	for _, label := range absent {
		requirement, err := labels.NewRequirement(label, selection.DoesNotExist, nil)
		if err != nil {
			panic(err) // the labels are constants
		}
		s = s.Add(*requirement)
	}
	return s
}
