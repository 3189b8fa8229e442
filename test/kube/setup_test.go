// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// setup is a network with a control plane, and Node objects for its nodes,
// whose zones are zone-1 and zone-2.
type setup struct {
	*topo.Network
	cp       *apiserver.ControlPlane
	binaries string
	dir      string
	ctx      context.Context
}

// What all pods of these tests serve.
var podPorts = topo.Ports{HTTP: []uint16{8080}, UDP: []uint16{5353}, Echo: []uint16{7070}}

const timeout = 10 * time.Minute // of a whole test

func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{binaries: apiserver.Binaries(t), dir: t.TempDir()}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	var err error
	s.Network, err = topo.New(topo.Defaults())
	check(t, err)
	t.Cleanup(func() { check(t, s.Network.Close()) })
	gatewayMachine, err := s.AddMachine(gateway)
	check(t, err)
	check(t, s.addRoutes(gatewayMachine))
	check(t, s.unlimitRefusals())
	machine, err := s.AddMachine("control")
	check(t, err)
	s.cp, err = apiserver.Start(apiserver.Options{Host: machine, Binaries: s.binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, s.cp.Stop()) })
	for i, node := range s.Nodes {
		check(t, s.cp.CreateNode(s.ctx, apiserver.NodeOf(node, fmt.Sprintf("zone-%d", i+1))))
	}
	return s
}

// addRoutes has the nodes send to a gateway what isn't in the cluster: without a
// route a node's own processes could not even send to a cluster IP. The gateway
// takes all addresses of services for its own and answers at their ports, so that
// what a proxy should have dropped or refused is seen to leak. The laptop has
// routes to services by the first node.
func (s *setup) addRoutes(gateway *topo.Host) error {
	ports := []uint16{servicePort, unusedPort}
	if _, err := gateway.Serve(topo.Ports{HTTP: ports, UDP: ports}); err != nil {
		return err
	}
	if err := gateway.Sysctl("net.ipv6.ip_nonlocal_bind", "1"); err != nil { // to answer datagrams from them
		return err
	}
	lo, err := gateway.Link("lo")
	if err != nil {
		return err
	}
	for _, prefix := range []netip.Prefix{apiserver.ServiceCIDR4, apiserver.ServiceCIDR6, lbs4, lbs6, externals4, externals6} {
		everywhere, first, next := netip.MustParsePrefix("0.0.0.0/0"), s.Nodes[0].IP4, gateway.IP4
		if prefix.Addr().Is6() {
			everywhere, first, next = netip.MustParsePrefix("::/0"), s.Nodes[0].IP6, gateway.IP6
		}
		own := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL,
			Scope: netlink.SCOPE_HOST, Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
		errs := []error{gateway.Netlink().RouteAdd(own), s.Laptop.AddRoute(prefix, first)}
		for _, node := range s.Nodes {
			errs = append(errs, node.AddRoute(everywhere, next))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// unlimitRefusals lets the kernel answer with as many ICMP errors as the table
// has flows that are refused.
func (s *setup) unlimitRefusals() error {
	hosts := []*topo.Host{s.Laptop}
	for _, node := range s.Nodes {
		hosts = append(hosts, node.Host)
	}
	for _, h := range hosts {
		err := errors.Join(h.Sysctl("net.ipv4.icmp_ratelimit", "0"), h.Sysctl("net.ipv6.icmp.ratelimit", "0"),
			h.Sysctl("net.ipv4.icmp_msgs_per_sec", "100000"), h.Sysctl("net.ipv4.icmp_msgs_burst", "100000"))
		if err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig writes a file for a process on a node.
func (s *setup) kubeconfig(t *testing.T, name string, user apiserver.User) string {
	t.Helper()
	file := filepath.Join(s.dir, name+".kubeconfig")
	check(t, s.cp.WriteKubeconfig(file, user))
	return file
}

// addPod makes a pod that serves podPorts, and its object.
func (s *setup) addPod(t *testing.T, node int, name string, labels map[string]string) *topo.Pod {
	t.Helper()
	pod, err := s.Nodes[node].AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(podPorts)
	check(t, err)
	check(t, s.cp.CreatePod(s.ctx, apiserver.PodOf(pod, labels)))
	return pod
}

// addService creates a service, and waits for as many endpoints in its slices of
// each family as its pods are.
func (s *setup) addService(t *testing.T, svc *corev1.Service, endpoints int) *corev1.Service {
	t.Helper()
	made, err := s.cp.CreateService(s.ctx, svc)
	check(t, err)
	s.awaitSlices(t, svc.Name, func(list []discoveryv1.EndpointSlice) bool {
		families := map[discoveryv1.AddressType]int{}
		for _, slice := range list {
			families[slice.AddressType] += len(slice.Endpoints)
		}
		return families[discoveryv1.AddressTypeIPv4] == endpoints && families[discoveryv1.AddressTypeIPv6] == endpoints
	})
	return made
}

// awaitSlices waits until the slices of a service are as a test wants them.
func (s *setup) awaitSlices(t *testing.T, service string, done func([]discoveryv1.EndpointSlice) bool) {
	t.Helper()
	var last []discoveryv1.EndpointSlice
	ofService := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service}
	err := wait.PollUntilContextTimeout(s.ctx, 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := s.cp.Client().DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, ofService)
		if err != nil {
			return false, err
		}
		last = list.Items
		return done(last), nil
	})
	if err != nil {
		t.Fatalf("slices of %s: %v; they are %+v", service, err, last)
	}
}

// client starts a client process on a host.
func client(t *testing.T, h *topo.Host) *topo.Client {
	t.Helper()
	c, err := h.Client()
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}
