// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/waggle-lb/waggle/control/pools"
)

// speaker is a program that announces addresses from the node that its pod is on.
type speaker struct {
	name     string
	selector string
	kinds    []string // of the documents that it goes by, or that ours would be announced by beside it
	// on is a ConfigMap in the namespace of its pods, and the key that says "true" if it announces; empty: it always does.
	on struct{ name, key string }
	// env is a variable of its container that says "true" if it announces; empty: it always does.
	env string
}

var speakers = []speaker{
	{name: "MetalLB's speaker", selector: "app=metallb,component=speaker", kinds: []string{pools.KindL2Advertisement}},
	{name: "MetalLB's speaker", selector: "app.kubernetes.io/name=metallb,app.kubernetes.io/component=speaker", kinds: []string{pools.KindL2Advertisement}},
	{name: "Cilium's agent", selector: "k8s-app=cilium", kinds: []string{pools.KindCiliumL2Announcement},
		on: struct{ name, key string }{"cilium-config", "enable-l2-announcements"}},
	{name: "kube-vip", selector: "app.kubernetes.io/name=kube-vip-ds", env: "svc_enable",
		kinds: []string{pools.KindL2Advertisement, pools.KindCiliumL2Announcement}},
}

// Announcing says which other programs announce addresses from this node, by the kind of documents. known: it was looked for.
func (a *Assigner) Announcing() (others map[string]string, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.announcing), a.looked
}

// watchSpeakers looks for programs that announce, until ctx is done. Each agent asks for the pods on its own node only.
func (a *Assigner) watchSpeakers(ctx context.Context) {
	for ctx.Err() == nil {
		pause := a.pace.look
		if !a.documents.known() {
			pause = a.pace.settle
		} else {
			found, err := a.lookForSpeakers(ctx)
			a.problems.cannot(pools.Ref{Kind: "Pod", Name: "on " + a.opts.NodeName}, err)
			if err == nil {
				a.mu.Lock()
				changed := !a.looked || !maps.Equal(a.announcing, found)
				a.announcing, a.looked = found, true
				a.mu.Unlock()
				if changed {
					a.changed()
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.Jitter(pause, 0.3)):
		}
	}
}

// lookForSpeakers looks for those that matter to the documents that there are.
func (a *Assigner) lookForSpeakers(ctx context.Context) (map[string]string, error) {
	found := map[string]string{}
	for _, s := range speakers {
		kinds := slices.DeleteFunc(slices.Clone(s.kinds), func(kind string) bool { return !a.documents.set().Announces(kind) })
		if len(kinds) == 0 {
			continue
		}
		request, cancel := context.WithTimeout(ctx, a.pace.request)
		list, err := a.opts.Client.CoreV1().Pods(metav1.NamespaceAll).List(request, metav1.ListOptions{
			LabelSelector: s.selector, FieldSelector: "spec.nodeName=" + a.opts.NodeName,
		})
		cancel()
		if err != nil {
			return nil, fmt.Errorf("no addresses are announced, since it is not known whether %s runs here: %w", s.name, err)
		}
		for _, pod := range list.Items {
			if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed || !a.announces(ctx, s, &pod) {
				continue
			}
			for _, kind := range kinds {
				found[kind] = fmt.Sprintf("%s, pod %s/%s", s.name, pod.Namespace, pod.Name)
			}
		}
	}
	return found, nil
}

// announces reports whether a speaker is configured to announce. Where that can't be read, it is taken to.
func (a *Assigner) announces(ctx context.Context, s speaker, pod *v1.Pod) bool {
	if s.env != "" {
		return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool {
			return slices.ContainsFunc(c.Env, func(e v1.EnvVar) bool { return e.Name == s.env && e.Value == "true" })
		})
	}
	if s.on.name == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, a.pace.request)
	defer cancel()
	config, err := a.opts.Client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, s.on.name, metav1.GetOptions{})
	return err != nil || config.Data[s.on.key] == "true"
}
