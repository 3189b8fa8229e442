// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/waggle-lb/waggle/control/assign"
	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// PoolOptions say how addresses of pools are given to Services.
type PoolOptions struct {
	// Namespace is that of the Lease by which one agent gives them.
	Namespace string
	Classes   pools.Classes
}

// The rate of requests that give addresses. They come all at once where pools are new.
const (
	assignQPS   = 100
	assignBurst = 200
)

// addresses is the part of a source that has to do with pools.
type addresses struct {
	*assign.Assigner

	mu       sync.Mutex
	services map[string]balancer // by namespace/name
}

// balancer is a Service with addresses.
type balancer struct {
	has       []pools.Held
	condition *pools.ConditionOf
}

// newAddresses makes the part for a cluster that is reached as the source reaches it, but whose requests say nothing of
// how well the source sees.
func (s *Source) newAddresses(cfg *rest.Config) error {
	if s.opts.Pools == nil {
		return nil
	}
	cfg.QPS, cfg.Burst = assignQPS, assignBurst
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	s.addresses = &addresses{services: map[string]balancer{}, Assigner: assign.New(assign.Options{
		NodeName: s.opts.NodeName, Namespace: s.opts.Pools.Namespace, Classes: s.opts.Pools.Classes,
		Client: client, Dynamic: dyn, Recorder: s.recorder, Log: s.opts.Log,
	})}
	return nil
}

// follow takes a change of any Service.
func (a *addresses) follow(old, new *v1.Service) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		delete(a.services, old.Namespace+"/"+old.Name)
	}
	if new != nil && new.Spec.Type == v1.ServiceTypeLoadBalancer && len(new.Status.LoadBalancer.Ingress) > 0 {
		a.services[new.Namespace+"/"+new.Name] = balancer{pools.FromStatus(new).Has, pools.Condition(new)}
	}
}

// list puts together the Services of each address that is of a pool, or was.
func (a *addresses) list() []status.Address {
	set := a.Pools()
	a.mu.Lock()
	defer a.mu.Unlock()
	found := map[netip.Addr]*status.Address{}
	for name, b := range a.services {
		for _, h := range b.has {
			pool := set.Find(h.Addr)
			if pool == nil && h.From == (pools.Ref{}) {
				continue
			}
			at := found[h.Addr]
			if at == nil {
				at = &status.Address{Address: h.Addr.String(), Pool: h.From.String(), PoolGone: pool == nil}
				found[h.Addr] = at
			}
			if pool != nil {
				at.Pool = pool.Ref.String()
			}
			at.Services = append(at.Services, name)
			if c := b.condition; c != nil && h.From != (pools.Ref{}) && (at.Since.IsZero() || c.Since.Before(at.Since)) {
				at.Since = c.Since
			}
		}
	}
	list := make([]status.Address, 0, len(found))
	for _, at := range found {
		slices.Sort(at.Services)
		list = append(list, *at)
	}
	slices.SortFunc(list, func(a, b status.Address) int {
		x, y := netip.MustParseAddr(a.Address), netip.MustParseAddr(b.Address)
		return x.Compare(y)
	})
	return list
}

// Addresses is source.Addresser's.
func (s *Source) Addresses() []status.Address {
	if s.addresses == nil {
		return nil
	}
	return s.addresses.list()
}

// Pools is source.Addresser's.
func (s *Source) Pools() *pools.Set {
	if s.addresses == nil {
		return nil
	}
	return s.addresses.Pools()
}

// Announcing is source.Announcing's.
func (s *Source) Announcing() (others map[string]string, known bool) {
	if s.addresses == nil {
		return nil, false
	}
	return s.addresses.Announcing()
}

// Notify is source.Notifier's.
func (s *Source) Notify(changed func()) {
	if s.addresses != nil {
		s.addresses.Notify(changed)
	}
}

// MembersService is the headless Service whose endpoints are the agents.
const MembersService = "waggle-members"

// Agents is source.Announcing's.
func (s *Source) Agents(ctx context.Context) ([]netip.Addr, error) {
	if s.addresses == nil {
		return nil, errors.New("no pools are followed")
	}
	namespace := s.opts.Pools.Namespace
	found, err := s.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discovery.LabelServiceName + "=" + MembersService,
	})
	if err != nil {
		return nil, fmt.Errorf("endpoints of Service %s/%s: %w", namespace, MembersService, err)
	}
	var all []netip.Addr
	for _, slice := range found.Items {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				if a, err := netip.ParseAddr(text); err == nil {
					all = append(all, a)
				}
			}
		}
	}
	return all, nil
}

// Notices is source.Noticer's.
func (s *Source) Notices() []string {
	if s.addresses == nil {
		return nil
	}
	return s.addresses.Notices()
}
