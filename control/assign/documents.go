// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	kjson "sigs.k8s.io/json"

	"github.com/waggle-lb/waggle/control/pools"
)

// documents follows pools and announcements. Their kinds may not be known to the API server, and become known later.
type documents struct {
	client   kubernetes.Interface
	dynamic  dynamic.Interface
	problems *problems
	every    func() time.Duration // between looks for kinds that are not served
	changed  chan struct{}        // something may have
	notify   func()               // the same, for others
	hurry    chan struct{}        // the time between looks has become shorter

	mu       sync.Mutex
	followed map[string]*informed // by kind; nil: not served
	looked   bool                 // it is known which kinds are served
	current  *pools.Set           // nil: to be made anew
}

// informed is a kind that is followed.
type informed struct {
	informer cache.SharedIndexInformer
	synced   func() bool
}

func newDocuments(client kubernetes.Interface, dyn dynamic.Interface, p *problems, every func() time.Duration, notify func()) *documents {
	return &documents{
		client: client, dynamic: dyn, problems: p, every: every, notify: notify,
		changed: make(chan struct{}, 1), hurry: make(chan struct{}, 1), followed: map[string]*informed{},
	}
}

// run follows the kinds that are served, and looks now and then for the others.
func (d *documents) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		if d.look(ctx, &wg) {
			d.note()
		}
		select {
		case <-ctx.Done():
		case <-d.hurry:
		case <-time.After(wait.Jitter(d.every(), 0.5)):
		}
	}
}

// note forgets the set, and says that something may have changed.
func (d *documents) note() {
	d.mu.Lock()
	d.current = nil
	d.mu.Unlock()
	d.notify()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// look begins to follow the kinds that are served and not followed yet. It returns whether that is known of all.
func (d *documents) look(ctx context.Context, wg *sync.WaitGroup) bool {
	served := map[string]map[string]bool{} // resources by version
	for _, k := range pools.Kinds {
		if d.follows(k.Kind) {
			continue
		}
		version := k.GroupVersion().String()
		if served[version] == nil {
			resources, err := d.resources(version)
			d.problems.cannot(pools.Ref{Kind: "API", Name: version}, err)
			if err != nil {
				return false
			}
			served[version] = resources
		}
		if served[version][k.Resource] {
			wg.Go(func() { d.follow(ctx, k, d.inform(k)) })
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looked = true
	return true
}

func (d *documents) follows(kind string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.followed[kind] != nil
}

// resources are those of a version of an API group; none if it isn't served.
func (d *documents) resources(version string) (map[string]bool, error) {
	all := map[string]bool{}
	list, err := d.client.Discovery().ServerResourcesForGroupVersion(version)
	if apierrors.IsNotFound(err) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range list.APIResources {
		all[r.Name] = true
	}
	return all, nil
}

// inform prepares to follow a kind.
func (d *documents) inform(k pools.Kind) *informed {
	resource := k.GroupVersion().WithResource(k.Resource)
	informer := dynamicinformer.NewFilteredDynamicInformer(d.dynamic, resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	i := &informed{informer: informer}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.followed[k.Kind] = i
	return i
}

// follow keeps up with a kind until it isn't served any more.
func (d *documents) follow(ctx context.Context, k pools.Kind, i *informed) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	about := pools.Ref{Kind: k.Kind, Name: k.GroupVersion().String()}
	// These fail only once an informer runs.
	_ = i.informer.SetTransform(func(object any) (any, error) { return decode(k, object) })
	_ = i.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		switch {
		case apierrors.IsNotFound(err):
			cancel()
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			d.problems.cannot(about, fmt.Errorf("can't be followed: %w", err))
		}
	})
	registration, err := i.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { d.note() }, UpdateFunc: func(_, _ any) { d.note() }, DeleteFunc: func(any) { d.note() },
	})
	if err == nil {
		d.mu.Lock()
		i.synced = registration.HasSynced
		d.mu.Unlock()
		go func() {
			if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
				d.problems.cannot(about, nil)
				d.note()
			}
		}()
		i.informer.RunWithContext(ctx)
	}
	d.problems.cannot(about, nil)
	d.mu.Lock()
	delete(d.followed, k.Kind)
	d.mu.Unlock()
	d.note()
}

// decode makes a document of what an API server sends, which it has checked against the schema.
func decode(k pools.Kind, object any) (any, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	u.SetManagedFields(nil)
	raw, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	d := &decoded{Document: k.New()}
	unknown, err := kjson.UnmarshalStrict(raw, d.Document, kjson.DisallowUnknownFields)
	for _, e := range unknown {
		var at kjson.FieldError
		if errors.As(e, &at) {
			d.unknown = append(d.unknown, at.FieldPath())
		}
	}
	return d, err
}

// decoded is a document, and what of it is of a later version than we know.
type decoded struct {
	pools.Document
	unknown []string // fields
}

// known reports whether all documents have been listed, of the kinds that are served.
func (d *documents) known() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range d.followed {
		if i.synced == nil || !i.synced() {
			return false
		}
	}
	return d.looked
}

func (d *documents) set() *pools.Set {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		var all []pools.Document
		var unknown []pools.Problem
		for _, i := range d.followed {
			for _, object := range i.informer.GetStore().List() {
				document, ok := object.(*decoded)
				if !ok {
					continue
				}
				all = append(all, document.Document)
				for _, field := range document.unknown {
					unknown = append(unknown, pools.Problem{Object: document.Ref(), Field: field, Message: "unknown field, which has no effect"})
				}
			}
		}
		d.current = pools.NewSet(all)
		d.current.Problems = append(d.current.Problems, unknown...)
	}
	return d.current
}

// hasKind reports whether there is a pool of a kind.
func (d *documents) hasKind(kind string) bool {
	for _, p := range d.set().Pools {
		if p.Kind == kind {
			return true
		}
	}
	return false
}
