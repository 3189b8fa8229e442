// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/waggle-lb/waggle/test/apiserver"
)

const (
	churnServices = 300
	churnGroups   = 100 // of pods; a service selects one of them
	groupSize     = 3
	churnInterval = time.Second / 20
	churnWorkers  = 8
)

// churn changes services and pods that no client asks, without a pause.
type churn struct {
	s       *setup
	quit    chan struct{}
	workers sync.WaitGroup
	done    atomic.Int64
	failed  atomic.Int64 // the API server was away

	mu  sync.Mutex
	err error // the first other failure
}

func groupLabels(group int) map[string]string {
	return map[string]string{"group": fmt.Sprint(group)}
}

func churnPodName(group, i int) string { return fmt.Sprintf("churn-%d-%d", group, i) }

func churnServiceName(i int) string { return fmt.Sprintf("churn-%d", i) }

// addChurnObjects makes the services and pods that are to change. No process serves
// at the pods' addresses.
func (s *setup) addChurnObjects(t *testing.T) {
	t.Helper()
	var jobs []func() error
	for group := range churnGroups {
		for i := range groupSize {
			// Beyond the pods that exist; each second one is on the second node.
			number, node := group*groupSize+i, i%2
			ip4 := familyAddr(false, fmt.Sprintf("10.244.%d.%%d", 100+2*(number/200)+node), "", 2+number%200)
			ip6 := familyAddr(true, "", fmt.Sprintf("fd00:10:244:%d::%%d", 100+2*(number/200)+node), 2+number%200)
			pod := apiserver.BoundPod(churnPodName(group, i), s.Nodes[node].Name, groupLabels(group), ip4, ip6)
			jobs = append(jobs, func() error { return s.cp.CreatePod(s.ctx, pod) })
		}
	}
	for i := range churnServices {
		jobs = append(jobs, func() error {
			_, err := s.cp.CreateService(s.ctx, churnService(i))
			return err
		})
	}
	check(t, inParallel(jobs))
}

func inParallel(jobs []func() error) error {
	work, failed := make(chan func() error), make(chan error, len(jobs))
	var workers sync.WaitGroup
	for range churnWorkers {
		workers.Go(func() {
			for job := range work {
				if err := job(); err != nil {
					failed <- err
				}
			}
		})
	}
	for _, job := range jobs {
		work <- job
	}
	close(work)
	workers.Wait()
	close(failed)
	return <-failed
}

func churnService(i int) *corev1.Service {
	dual := corev1.IPFamilyPolicyRequireDualStack
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: churnServiceName(i), Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: groupLabels(rand.IntN(churnGroups)), IPFamilyPolicy: &dual,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if i%5 == 0 {
		svc.Spec.Type = corev1.ServiceTypeNodePort
	}
	return svc
}

// startChurn begins; stop ends it and reports whether all went well.
func (s *setup) startChurn() *churn {
	c := &churn{s: s, quit: make(chan struct{})}
	ticks := make(chan struct{}, churnWorkers)
	c.workers.Go(func() {
		ticker := time.NewTicker(churnInterval)
		defer ticker.Stop()
		defer close(ticks)
		for {
			select {
			case <-c.quit:
				return
			case <-ticker.C:
				ticks <- struct{}{}
			}
		}
	})
	for range churnWorkers {
		c.workers.Go(func() {
			for range ticks {
				c.result(c.changeSomething(s.ctx))
			}
		})
	}
	return c
}

func (c *churn) stop(t *testing.T) {
	t.Helper()
	close(c.quit)
	c.workers.Wait()
	t.Logf("%d changes, %d that found no API server", c.done.Load(), c.failed.Load())
	check(t, c.err)
}

// changeSomething tries until a change is one: a service that is to be deleted
// may be gone, and two changes may meet at one object.
func (c *churn) changeSomething(ctx context.Context) error {
	for {
		err := c.change(ctx)
		if !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
}

// result counts.
func (c *churn) result(err error) {
	switch {
	case err == nil:
		c.done.Add(1)
	case utilnet.IsConnectionRefused(err), utilnet.IsConnectionReset(err), utilnet.IsProbableEOF(err), utilnet.IsTimeout(err),
		errors.Is(err, io.ErrUnexpectedEOF), utilnet.IsHTTP2ConnectionLost(err), // in the middle of an answer
		apierrors.IsForbidden(err), apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err), apierrors.IsTooManyRequests(err):
		c.failed.Add(1) // it is away, or has just started and knows no user's rights yet
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.err = err
		}
	}
}

// change does one of what happens in clusters.
func (c *churn) change(ctx context.Context) error {
	services := c.s.cp.Client().CoreV1().Services(metav1.NamespaceDefault)
	i := rand.IntN(churnServices)
	switch kind := rand.IntN(10); {
	case kind < 5:
		return c.s.flipReady(ctx, churnPodName(rand.IntN(churnGroups), rand.IntN(groupSize)))
	case kind < 6:
		return services.Delete(ctx, churnServiceName(i), metav1.DeleteOptions{})
	case kind < 8: // there are more of these than of deletions, so that most services exist
		_, err := services.Create(ctx, churnService(i), metav1.CreateOptions{})
		return err
	}
	svc, err := services.Get(ctx, churnServiceName(i), metav1.GetOptions{})
	if err != nil {
		return err
	}
	svc.Spec.Selector = groupLabels(rand.IntN(churnGroups))
	if rand.IntN(2) == 0 {
		svc.Spec.Ports[0].Port = 80 + int32(rand.IntN(10))
	}
	_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	return err
}

// flipReady makes a pod ready that isn't, and the other way round.
func (s *setup) flipReady(ctx context.Context, name string) error {
	pods := s.cp.Client().CoreV1().Pods(metav1.NamespaceDefault)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return s.setReady(name, !isReady(pod))
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
