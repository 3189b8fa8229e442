// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waggle-lb/waggle/control/pools"
)

// other is a controller that gives addresses, by the labels of its pods. MetalLB's has no Lease to be known by, and
// what is called how depends on who has installed it.
type other struct {
	name     string
	selector string
	pools    string // kind of the pools without which it does nothing; empty: it always acts
	// off is a ConfigMap in the namespace of its pods that may say by a key that it gives no addresses.
	off struct{ name, key string }
}

// MetalLB's controller takes addresses away that are of none of its pools, so it counts even where it has none.
// Cilium's operator has other work too. It gives addresses only where there are pools of its own, and where
// enableLBIPAM of its chart, which is true by default, is.
var others = []other{
	{name: "MetalLB's controller", selector: "app=metallb,component=controller"},
	{name: "MetalLB's controller", selector: "app.kubernetes.io/name=metallb,app.kubernetes.io/component=controller"},
	{name: "Cilium's operator", selector: "io.cilium/app=operator", pools: pools.KindCiliumPool,
		off: struct{ name, key string }{"cilium-config", "enable-lb-ipam"}},
}

// lookForOthers says which other controller runs; empty: none.
func (a *Assigner) lookForOthers(ctx context.Context) (string, error) {
	for _, o := range others {
		if o.pools != "" && !a.documents.hasKind(o.pools) {
			continue
		}
		request, cancel := context.WithTimeout(ctx, a.pace.request)
		list, err := a.opts.Client.CoreV1().Pods(metav1.NamespaceAll).List(request, metav1.ListOptions{LabelSelector: o.selector})
		cancel()
		if err != nil {
			return "", fmt.Errorf("no addresses are given, since it is not known whether %s runs: %w", o.name, err)
		}
		for _, pod := range list.Items {
			if pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed && !a.isOff(ctx, o, pod.Namespace) {
				return fmt.Sprintf("%s runs (pod %s/%s)", o.name, pod.Namespace, pod.Name), nil
			}
		}
	}
	return "", nil
}

// isOff reports whether the configuration of another controller says that it gives no addresses. Where that can't be read, it
// is taken to give some.
func (a *Assigner) isOff(ctx context.Context, o other, namespace string) bool {
	if o.off.name == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, a.pace.request)
	defer cancel()
	config, err := a.opts.Client.CoreV1().ConfigMaps(namespace).Get(ctx, o.off.name, metav1.GetOptions{})
	return err == nil && config.Data[o.off.key] == "false"
}
