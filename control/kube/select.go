// SPDX-License-Identifier: Apache-2.0

package kube

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/kubernetes/pkg/proxy/apis"
)

// selector selects Services that are not headless and, unless `named`, have no label for a service
// proxy. If the source has a proxy name, or needs the cluster IPs of other proxies' Services, it
// requests all, and those of others are left out later.
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
