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

// followed are the informers of a source. They keep what they list, even while no sink gets it.
type followed struct {
	factories []informers.SharedInformerFactory
	informers map[string]cache.SharedIndexInformer // by kind
	stop      context.CancelFunc                   // ends the running informers
}

// newFollowed makes the informers. The API server does not even send the endpoints of Services of other
// proxies. It sends those Services, because waggle must not drop packets to their cluster IPs.
func (s *Source) newFollowed() (*followed, error) {
	named := s.factory(func(o *metav1.ListOptions) { o.LabelSelector = selector(true).String() })
	selected := s.factory(func(o *metav1.ListOptions) { o.LabelSelector = selector(s.opts.ServiceProxyName != "").String() })
	own := s.factory(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.opts.NodeName).String()
	})
	all := s.factory(nil)
	f := &followed{
		factories: []informers.SharedInformerFactory{named, selected, own, all},
		informers: map[string]cache.SharedIndexInformer{
			services:       named.Core().V1().Services().Informer(),
			endpointSlices: selected.Discovery().V1().EndpointSlices().Informer(),
			nodes:          own.Core().V1().Nodes().Informer(),
			serviceCIDRs:   all.Networking().V1().ServiceCIDRs().Informer(),
		},
	}
	for kind, informer := range f.informers {
		if err := informer.SetWatchErrorHandlerWithContext(s.onWatchError(kind)); err != nil {
			return nil, fmt.Errorf("following %s: %w", kind, err)
		}
	}
	return f, nil
}

func (s *Source) onWatchError(kind string) cache.WatchErrorHandlerWithContext {
	return func(_ context.Context, _ *cache.Reflector, err error) {
		s.opts.Log.WithField("kind", kind).WithError(err).Debug("following")
		s.sight.explain(kind, reason(err))
	}
}

func (s *Source) factory(tweak func(*metav1.ListOptions)) informers.SharedInformerFactory {
	options := []informers.SharedInformerOption{informers.WithTransform(trim(s.opts.NodeName))}
	if tweak != nil {
		options = append(options, informers.WithTweakListOptions(tweak))
	}
	return informers.NewSharedInformerFactoryWithOptions(s.client, 0, options...)
}

// start runs them, if they don't run yet, until ctx is done or stop is called.
func (f *followed) start(ctx context.Context) {
	if f.stop != nil {
		return
	}
	ctx, f.stop = context.WithCancel(ctx)
	for _, factory := range f.factories {
		factory.StartWithContext(ctx)
	}
}

// end stops them, and waits until they have ended.
func (f *followed) end() {
	f.stop()
	for _, factory := range f.factories {
		factory.Shutdown()
	}
}

// deliver passes the objects of the informers to the sink, and then each change. needed are done when the sink
// has all objects that have to come before OnSynced.
func (r *run) deliver(f *followed) (needed []cache.DoneChecker, err error) {
	need := func(synced cache.DoneChecker, err error) error {
		needed = append(needed, synced)
		return err
	}
	if err := errors.Join(
		need(follow(r, services, f.informers[services], r.onService)),
		need(follow(r, endpointSlices, f.informers[endpointSlices], r.onSlice)),
		need(follow(r, nodes, f.informers[nodes], r.onNode)),
	); err != nil {
		return nil, err
	}
	// OnSynced does not wait for these: older API servers have none.
	_, err = follow(r, serviceCIDRs, f.informers[serviceCIDRs], r.ranges.follow)
	return needed, err
}

// follow passes on the changes of a kind of object, one at a time among all kinds.
func follow[T any, P interface {
	*T
	metav1.Object
}](r *run, kind string, informer cache.SharedIndexInformer, deliver func(old, new P)) (cache.DoneChecker, error) {
	one := func(old, new any) {
		before, after := object[P](old), object[P](new)
		if before != nil && after != nil && before.GetUID() == after.GetUID() && before.GetResourceVersion() == after.GetResourceVersion() {
			return // the same version again, after a new list
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		deliver(before, after)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(new any) { one(nil, new) },
		UpdateFunc: func(old, new any) { one(old, new) },
		DeleteFunc: func(old any) { one(old, nil) },
	})
	if err != nil {
		return nil, fmt.Errorf("following %s: %w", kind, err)
	}
	return registration.HasSyncedChecker(), nil
}

// object returns the object that a handler got, even if it was deleted while no watch ran.
func object[P any](o any) P {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	typed, _ := o.(P)
	return typed
}
