// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/waggle-lb/waggle/control/pools"
)

// identitySeparator is not in names of nodes.
const identitySeparator = "_"

// elect gives addresses whenever this agent has the Lease.
func (a *Assigner) elect(ctx context.Context) {
	identity := a.opts.NodeName + identitySeparator + string(uuid.NewUUID())
	for ctx.Err() == nil {
		err := a.mayLead(ctx)
		if a.problems.cannot(a.lease(), err); err == nil {
			a.campaign(ctx, identity)
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.pace.poll):
		}
	}
}

func (a *Assigner) lease() pools.Ref {
	return pools.Ref{Kind: "Lease", Namespace: a.opts.Namespace, Name: LeaseName}
}

// mayLead finds out whether the Lease may be read: the election itself would only log that it may not.
func (a *Assigner) mayLead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.pace.request)
	defer cancel()
	_, err := a.opts.Client.CoordinationV1().Leases(a.opts.Namespace).Get(ctx, LeaseName, metav1.GetOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("addresses of pools are not given by this agent: %w", err)
}

// campaign waits for the Lease, and gives addresses until it is lost. When ctx is done the Lease is given back, once
// nothing is written any more.
func (a *Assigner) campaign(ctx context.Context, identity string) {
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	started, ended := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: a.opts.Namespace, Name: LeaseName},
			Client:     a.opts.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration: a.pace.lease, RenewDeadline: a.pace.renew, RetryPeriod: a.pace.poll,
		ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				close(started)
				defer close(ended)
				working, stop := context.WithCancel(leading)
				defer stop()
				defer context.AfterFunc(ctx, stop)()
				a.setLeading(true)
				a.lead(working)
				a.setLeading(false)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				node, _, _ := strings.Cut(identity, identitySeparator)
				a.mu.Lock()
				defer a.mu.Unlock()
				a.leader = node
			},
		},
	})
	if err != nil {
		a.problems.cannot(a.lease(), err)
		return
	}
	defer context.AfterFunc(ctx, func() {
		select {
		case <-started:
			<-ended
		default:
		}
		release()
	})()
	elector.Run(holding)
	select {
	case <-started:
		<-ended
	default:
	}
}

func (a *Assigner) setLeading(leading bool) {
	a.mu.Lock()
	a.leading, a.others = leading, ""
	a.mu.Unlock()
	select {
	case a.documents.hurry <- struct{}{}:
	default:
	}
}
