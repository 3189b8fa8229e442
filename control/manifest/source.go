// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
)

// Source reads Kubernetes objects from a directory of manifests. It implements source.Source.
type Source struct {
	opts     Options
	problems *problems
	held     atomic.Pointer[[]string]
	notices  atomic.Pointer[[]string]
	pooled   atomic.Pointer[pooled]
	pace     pace
}

var (
	_ source.Source  = (*Source)(nil)
	_ source.Keeper  = (*Source)(nil)
	_ source.Noticer = (*Source)(nil)

	_ source.Addresser = (*Source)(nil)
)

// pace are the durations of the source.
type pace struct {
	// settle is the pause in events before the source looks at the directory: editors write in
	// several steps. patience limits that while events never cease.
	settle, patience time.Duration
	// reread is the interval at which the source reads all files, changed or not.
	reread time.Duration
	// retry is the interval between attempts to read an unreadable directory.
	retry time.Duration
	// release is the interval between looks for a release of what is held.
	release time.Duration
}

var defaultPace = pace{
	settle:   50 * time.Millisecond,
	patience: time.Second,
	reread:   30 * time.Second,
	retry:    time.Second,
	release:  500 * time.Millisecond,
}

// New makes a source of the manifests in a directory, which need not exist yet.
func New(opts Options) (*Source, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	return &Source{opts: opts, problems: newProblems(opts.Log), pace: defaultPace}, nil
}

// Problems lists what is wrong with the manifests now.
func (s *Source) Problems() []status.Problem { return s.problems.list() }

// Held implements source.Keeper.
func (s *Source) Held() []string { return loaded(&s.held) }

// Notices implements source.Noticer.
func (s *Source) Notices() []string { return loaded(&s.notices) }

// pooled are the pools and their addresses.
type pooled struct {
	set       *pools.Set
	addresses []status.Address
}

// Addresses implements source.Addresser.
func (s *Source) Addresses() []status.Address {
	if p := s.pooled.Load(); p != nil {
		return p.addresses
	}
	return nil
}

// Pools implements source.Addresser.
func (s *Source) Pools() *pools.Set {
	if p := s.pooled.Load(); p != nil {
		return p.set
	}
	return nil
}

func loaded(list *atomic.Pointer[[]string]) []string {
	if l := list.Load(); l != nil {
		return *l
	}
	return nil
}

// Run delivers all objects to the sink, then calls OnSynced, then delivers each change. It calls
// nothing, not even OnSynced, before it could read the directory or the copies of an earlier
// process. Run returns nil when ctx is done. Call it once.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	r := &run{
		Source: s,
		sink:   sink,
		state:  newState(s.opts, s.problems, false),
		watch:  newWatch(s.opts.AllocationFile),
	}
	defer r.watch.close()
	r.start(ctx)
	r.loop(ctx)
	return nil
}

// run is one run of a Source.
type run struct {
	*Source
	sink   source.Sink
	state  *state
	watch  *watch
	synced bool
	failed bool // to read the directory

	// What has happened since the directory was last looked at.
	pending  look
	deadline time.Time // to look at it, whatever happens; zero if nothing did
}

// start looks twice if a file doesn't parse: an editor may be writing it, and a restarted proxy
// deletes what the first delivery lacks.
func (r *run) start(ctx context.Context) {
	tree := r.state.tree
	found, err := tree.scan(look{}, r.watch.enter)
	if err == nil && !found.absent && tree.unsure() {
		select {
		case <-ctx.Done():
		case <-time.After(r.pace.settle):
		}
		var more findings
		more, err = tree.scan(look{all: true}, r.watch.enter)
		more.kept = found.kept
		more.changes = append(found.changes, more.changes...)
		found = more
	}
	r.apply(ctx, found, err)
}

func (r *run) loop(ctx context.Context) {
	debounce := time.NewTimer(0)
	debounce.Stop()
	reread := time.NewTimer(r.interval())
	defer reread.Stop()
	defer debounce.Stop()
	release := time.NewTicker(r.pace.release)
	defer release.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case e := <-r.watch.events:
			if r.watch.concerns(e.Name) {
				debounce.Reset(r.note(e.Name))
			}
		case <-r.watch.errors:
			r.pending.all = true // events were lost
			debounce.Reset(r.note(""))
		case <-debounce.C:
			r.look(ctx)
			if r.failed {
				reread.Reset(r.pace.retry)
			}
		case <-release.C:
			if r.state.held.released() {
				r.look(ctx)
			}
		case <-reread.C:
			r.pending.all = true
			r.look(ctx)
			reread.Reset(r.interval())
		}
	}
}

// note notes that a file was touched, and returns when to look.
func (r *run) note(path string) time.Duration {
	now := time.Now()
	if r.deadline.IsZero() {
		r.deadline = now.Add(r.pace.patience)
	}
	if r.pending.suspects == nil {
		r.pending.suspects = map[string]bool{}
	}
	r.pending.suspects[path] = true
	return min(r.pace.settle, r.deadline.Sub(now))
}

func (r *run) look(ctx context.Context) {
	pending := r.pending
	r.pending, r.deadline = look{}, time.Time{}
	found, err := r.state.tree.scan(pending, r.watch.enter)
	r.apply(ctx, found, err)
}

// apply works out what has changed, and delivers it.
func (r *run) apply(ctx context.Context, found findings, err error) {
	d := r.state.apply(ctx, found, err)
	r.problems.set(ownerWatch, r.watch.settle())
	held := r.state.held.services()
	r.held.Store(&held)
	notices := r.state.tree.notices()
	r.notices.Store(&notices)
	if set, _ := r.state.pools(); err == nil {
		r.pooled.Store(&pooled{set, r.state.addresses})
	}
	r.failed = err != nil || found.absent
	switch {
	case err != nil || ctx.Err() != nil:
	case r.synced:
		d.emit(r.sink)
	default:
		r.sink.OnServiceCIDRs(r.opts.ServiceCIDRs)
		d.emitStart(r.sink)
		r.synced = true
	}
}

func (r *run) interval() time.Duration {
	if r.failed {
		return r.pace.retry
	}
	return r.pace.reread
}
