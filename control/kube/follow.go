// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// followed are the informers of one run.
type followed struct {
	factories []informers.SharedInformerFactory
	needed    []cache.InformerSynced // before anything may be said to be complete
}

// informers prepares to follow the cluster. Of what is for other proxies the endpoints are not even
// sent to us; the services are, because their cluster IPs are not ours to drop.
func (r *run) informers() (*followed, error) {
	named := r.factory(func(o *metav1.ListOptions) { o.LabelSelector = selector(true).String() })
	selected := r.factory(func(o *metav1.ListOptions) { o.LabelSelector = selector(r.opts.ServiceProxyName != "").String() })
	own := r.factory(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, r.opts.NodeName).String()
	})
	all := r.factory(nil)
	f := &followed{factories: []informers.SharedInformerFactory{named, selected, own, all}}
	need := func(synced cache.InformerSynced, err error) error {
		f.needed = append(f.needed, synced)
		return err
	}
	if err := errors.Join(
		need(follow(r, services, named.Core().V1().Services().Informer(), r.sink.OnService)),
		need(follow(r, endpointSlices, selected.Discovery().V1().EndpointSlices().Informer(), r.onSlice)),
		need(follow(r, nodes, own.Core().V1().Nodes().Informer(), r.onNode)),
	); err != nil {
		return nil, err
	}
	// Nobody waits for these: older API servers have none.
	_, err := follow(r, serviceCIDRs, all.Networking().V1().ServiceCIDRs().Informer(), r.ranges.follow)
	return f, err
}

func (r *run) factory(tweak func(*metav1.ListOptions)) informers.SharedInformerFactory {
	options := []informers.SharedInformerOption{informers.WithTransform(trim(r.opts.NodeName))}
	if tweak != nil {
		options = append(options, informers.WithTweakListOptions(tweak))
	}
	return informers.NewSharedInformerFactoryWithOptions(r.client, 0, options...)
}

// start lets them run; the function that it returns waits, once ctx is done, until nothing of
// them runs any more.
func (f *followed) start(ctx context.Context) (wait func()) {
	for _, factory := range f.factories {
		factory.StartWithContext(ctx)
	}
	return func() {
		for _, factory := range f.factories {
			factory.Shutdown()
		}
	}
}

// follow has the changes of a kind of object told, one at a time among all kinds.
func follow[T any, P interface {
	*T
	metav1.Object
}](r *run, kind string, informer cache.SharedIndexInformer, tell func(old, new P)) (cache.InformerSynced, error) {
	err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		r.log.WithField("kind", kind).WithError(err).Debug("following")
		r.sight.explain(kind, reason(err))
	})
	if err != nil {
		return nil, err
	}
	one := func(old, new any) {
		before, after := object[P](old), object[P](new)
		if before != nil && after != nil && before.GetUID() == after.GetUID() && before.GetResourceVersion() == after.GetResourceVersion() {
			return // listed again
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		tell(before, after)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(new any) { one(nil, new) },
		UpdateFunc: func(old, new any) { one(old, new) },
		DeleteFunc: func(old any) { one(old, nil) },
	})
	if err != nil {
		return nil, fmt.Errorf("following %s: %w", kind, err)
	}
	return registration.HasSynced, nil
}

// object is what a handler was given, also where it was deleted while nobody watched.
func object[P any](o any) P {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	typed, _ := o.(P)
	return typed
}
