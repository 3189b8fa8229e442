// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
)

// Source follows an API server. It implements source.Source, source.Watcher, source.Recorder,
// source.Located, source.Ahead, source.Addresser and source.Noticer.
type Source struct {
	opts     Options
	client   kubernetes.Interface
	learning *learning
	sight    *sight
	problems *problems
	probe    *probe
	pace     pace
	end      context.CancelFunc // ends waits of requests
	ahead    *followed          // since FetchAhead; nil without it

	addresses *addresses // nil: no pools are followed

	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
}

var (
	_ source.Source   = (*Source)(nil)
	_ source.Watcher  = (*Source)(nil)
	_ source.Recorder = (*Source)(nil)
	_ source.Located  = (*Source)(nil)
	_ source.Ahead    = (*Source)(nil)

	_ source.Addresser = (*Source)(nil)
	_ source.Noticer   = (*Source)(nil)

	_ source.Announcing = (*Source)(nil)
	_ source.Notifier   = (*Source)(nil)
)

// component is the source of our events.
const component = "waggle"

// New makes a source of the objects of a cluster. It reads the credentials, but does not connect to
// the API server yet.
func New(opts Options) (*Source, error) { return newSource(opts, rest.InClusterConfig) }

// newSource makes a source. pod returns the configuration from the environment of a pod.
func newSource(opts Options, pod func() (*rest.Config, error)) (*Source, error) {
	if opts.Log == nil {
		opts.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	cfg, d, err := opts.restConfig(pod)
	if err != nil {
		return nil, err
	}
	done, end := context.WithCancel(context.Background())
	s := &Source{
		opts:     opts,
		learning: newLearning(d, opts.AddressFile),
		sight:    newSight(opts.Log),
		problems: newProblems(opts.Log),
		pace:     defaultPace,
		end:      end,
	}
	unwatched := rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &observer{next: next, dialer: d, sight: s.sight, problems: s.problems, done: done}
	})
	if err := s.connect(cfg, d); err != nil {
		end()
		return nil, err
	}
	s.broadcaster = events.NewBroadcaster(&events.EventSinkImpl{Interface: s.client.EventsV1()})
	s.recorder = s.broadcaster.NewRecorder(scheme.Scheme, component)
	if err := s.newAddresses(unwatched); err != nil {
		end()
		return nil, err
	}
	return s, nil
}

func (s *Source) connect(cfg *rest.Config, d *dialer) error {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	url, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return err
	}
	s.probe = &probe{client: client, url: url, sight: s.sight, dialer: d}
	if s.opts.Kubeconfig == "" && len(s.opts.APIServers) == 0 {
		s.probe.advice = s.opts.APIServersHow
	}
	s.client, err = kubernetes.NewForConfigAndClient(cfg, client)
	return err
}

// Problems lists what of the cluster can't be had, though the API server works, and what is wrong with pools.
func (s *Source) Problems() []status.Problem {
	if s.addresses == nil {
		return s.problems.list()
	}
	return append(s.problems.list(), s.addresses.Problems()...)
}

// Blind implements source.Watcher.
func (s *Source) Blind() (since time.Time, why string) { return s.sight.blind() }

// Location implements source.Located.
func (s *Source) Location() string { return s.learning.dialer.whereabouts() }

// Recorder implements source.Recorder. Events are sent while the source runs.
func (s *Source) Recorder() events.EventRecorder { return s.recorder }

// FetchAhead implements source.Ahead: the lists arrive, and are decoded, before a sink gets them.
func (s *Source) FetchAhead(ctx context.Context) {
	if f, err := s.newFollowed(); err == nil { // Run returns the error
		f.start(ctx)
		s.ahead = f
	}
}

// Run passes all objects to the sink, then calls OnSynced, then passes each change, until ctx is
// done. It returns an error if our Node does not appear in time, or is deleted. Call it once.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer s.end()
	defer cancel(nil)
	if err := s.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	defer s.broadcaster.Shutdown()
	r := newRun(s, sink, cancel)
	f := s.ahead
	if f == nil {
		var err error
		if f, err = s.newFollowed(); err != nil {
			return err
		}
	}
	f.start(ctx)
	defer f.end()
	needed, err := r.deliver(f)
	if err != nil {
		return err
	}
	s.probe.pace = s.pace
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.probe.run(ctx) })
	if s.addresses != nil {
		wg.Go(func() { s.addresses.Run(ctx) })
	}
	defer cancel(nil)
	if r.start(ctx, needed) {
		<-ctx.Done()
	}
	return r.failure()
}

// nodeRef is the reference to our Node in events. The kubelet uses the name as UID as well, and
// `kubectl describe` looks for that.
func (s *Source) nodeRef() *v1.ObjectReference {
	name := s.opts.NodeName
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}
