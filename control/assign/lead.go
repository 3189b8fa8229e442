// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// term is the time for which an agent has the Lease.
type term struct {
	*Assigner
	services   cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	changed    chan struct{}
	next       time.Time // when to look for other controllers

	writing sync.Mutex
	written map[types.NamespacedName]*v1.Service // as the API server has returned them, until they are seen
}

// lead gives addresses until ctx is done.
func (a *Assigner) lead(ctx context.Context) {
	t := &term{Assigner: a, changed: make(chan struct{}, 1), written: map[types.NamespacedName]*v1.Service{}}
	defer t.follow(ctx)()
	defer a.problems.set(ownerServices, nil)
	for {
		again := a.pace.look
		if t.ready(ctx) && !t.round(ctx) {
			again = a.pace.retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			continue
		case <-t.changed:
		case <-a.documents.changed:
		}
		select { // what comes together is planned together
		case <-ctx.Done():
			return
		case <-time.After(a.pace.settle):
		}
	}
}

// follow begins to follow Services and namespaces, and returns what ends that. Services of other types are not even
// sent: the API server itself takes their addresses away. The lists are not to be older than the last write of the agent that
// had the Lease before, hence not any that an API server has cached.
func (t *term) follow(ctx context.Context) (end func()) {
	uncached := func(o *metav1.ListOptions) {
		if o.ResourceVersion == "0" {
			o.ResourceVersion = ""
		}
	}
	balancers := informers.NewSharedInformerFactoryWithOptions(t.opts.Client, 0, informers.WithTransform(trim), informers.WithTweakListOptions(
		func(o *metav1.ListOptions) {
			uncached(o)
			o.FieldSelector = fields.OneTermEqualSelector("spec.type", string(v1.ServiceTypeLoadBalancer)).String()
		}))
	all := informers.NewSharedInformerFactoryWithOptions(t.opts.Client, 0, informers.WithTransform(trim), informers.WithTweakListOptions(uncached))
	t.services, t.namespaces = balancers.Core().V1().Services().Informer(), all.Core().V1().Namespaces().Informer()
	note := func() {
		select {
		case t.changed <- struct{}{}:
		default:
		}
	}
	for kind, informer := range map[string]cache.SharedIndexInformer{"Service": t.services, "Namespace": t.namespaces} {
		_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { // fails only once it runs
			if apierrors.IsForbidden(err) {
				t.problems.cannot(pools.Ref{Kind: kind, Name: "*"}, err)
			}
		})
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { note() }, UpdateFunc: func(_, _ any) { note() }, DeleteFunc: func(any) { note() },
		}); err != nil {
			t.problems.cannot(pools.Ref{Kind: kind, Name: "*"}, err)
		}
	}
	balancers.StartWithContext(ctx)
	all.StartWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), t.services.HasSynced, t.namespaces.HasSynced) {
			note()
		}
	}()
	return func() {
		balancers.Shutdown()
		all.Shutdown()
	}
}

// trim drops what no plan reads.
func trim(object any) (any, error) {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
		read := map[string]string{}
		for _, name := range pools.Annotations() {
			if value, ok := o.GetAnnotations()[name]; ok {
				read[name] = value
			}
		}
		o.SetAnnotations(read)
	}
	return object, nil
}

// ready reports whether all is known, and no other controller gives addresses.
func (t *term) ready(ctx context.Context) bool {
	if !t.documents.known() || !t.services.HasSynced() || !t.namespaces.HasSynced() {
		return false
	}
	if time.Now().Before(t.next) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.others == ""
	}
	running, err := t.lookForOthers(ctx)
	t.problems.cannot(pools.Ref{Kind: "Pod", Name: "*"}, err)
	if err != nil {
		return false
	}
	t.next = time.Now().Add(t.pace.look)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.others != running {
		t.opts.Log.WithField("others", running).Info("other controllers that give addresses")
	}
	t.others = running
	return running == ""
}

// round makes a plan and carries it out. It returns whether all of it succeeded.
func (t *term) round(ctx context.Context) bool {
	in := pools.Input{Set: t.documents.set(), Classes: t.opts.Classes, Namespaces: map[string]labels.Set{}}
	for _, object := range t.namespaces.GetStore().List() {
		if ns, ok := object.(*v1.Namespace); ok {
			in.Namespaces[ns.Name] = ns.Labels
		}
	}
	current := t.current()
	for _, s := range current {
		in.Services = append(in.Services, pools.FromStatus(s))
	}
	plan := pools.Make(in)
	var found []pools.Problem // those of documents each agent finds itself
	for _, p := range plan.Problems {
		if p.Reason != "" {
			found = append(found, p)
		}
	}
	for _, p := range t.problems.set(ownerServices, found) {
		if s := current[types.NamespacedName{Namespace: p.Object.Namespace, Name: p.Object.Name}]; s != nil {
			t.record(s, p)
		}
	}
	return t.carryOut(ctx, current, plan.Changes)
}

// atOnce is how many statuses are written at the same time.
const atOnce = 8

// carryOut writes changes, until one fails.
func (t *term) carryOut(ctx context.Context, current map[types.NamespacedName]*v1.Service, changes []pools.Change) bool {
	writes, writing := errgroup.WithContext(ctx)
	writes.SetLimit(atOnce)
	for _, c := range changes {
		if writing.Err() != nil {
			break
		}
		writes.Go(func() error { return t.write(writing, current[c.NamespacedName], c) })
	}
	if err := writes.Wait(); err != nil {
		t.opts.Log.WithError(err).Warn("writing addresses of Services")
		return false
	}
	return true
}

// current are the Services, as they were seen or as they were returned when they were written, whichever is newer.
func (t *term) current() map[types.NamespacedName]*v1.Service {
	all := map[types.NamespacedName]*v1.Service{}
	for _, object := range t.services.GetStore().List() {
		if s, ok := object.(*v1.Service); ok {
			all[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = s
		}
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	for name, written := range t.written {
		seen := all[name]
		if seen == nil || seen.UID != written.UID || !older(seen, written) {
			delete(t.written, name)
			continue
		}
		all[name] = written
	}
	return all
}

func older(a, b *v1.Service) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

const maxNote = 1024 // bytes, by the API server's validation of events

// record makes an event on the Service.
func (t *term) record(s *v1.Service, p pools.Problem) {
	if t.opts.Recorder == nil {
		return
	}
	note := p.Message
	if p.Field != "" {
		note = p.Field + ": " + note
	}
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote], "")
	}
	regarding := &v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: s.UID}
	t.opts.Recorder.Eventf(regarding, nil, v1.EventTypeWarning, p.Reason, "Assign", "%s", note)
}

func compareProblems(a, b status.Problem) int {
	return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
}
