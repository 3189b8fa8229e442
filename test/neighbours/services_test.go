// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/waggle-lb/waggle/test/topo"
)

// A service has one backend and every kind of frontend.
type service struct {
	name   string
	pod    string
	number int // its addresses and ports follow from it
}

// dns is the service that NodeLocal DNSCache takes the cluster IP of.
const dns = "dns"

var services = map[string]service{
	dns: {dns, remote, 10}, local: {local, local, 11}, remote: {remote, remote, 12}, self: {self, self, 13},
}

var (
	lbs4 = netip.MustParsePrefix("203.0.113.0/24")
	lbs6 = netip.MustParsePrefix("2001:db8::/64")
)

// Both protocols have the same port, as with DNS.
const servicePort = 53

func (s service) clusterIP(v6 bool) netip.AddrPort { return s.at("10.96.0.%d", "fd00:10:96::%d", v6) }

func (s service) lb(v6 bool) netip.AddrPort { return s.at("203.0.113.%d", "2001:db8::%d", v6) }

func (s service) at(format4, format6 string, v6 bool) netip.AddrPort {
	format := format4
	if v6 {
		format = format6
	}
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(format, s.number)), servicePort)
}

func (s service) nodePort() uint16 { return uint16(30000 + s.number) }

func (s service) object() *corev1.Service {
	dual := corev1.IPFamilyPolicyRequireDualStack
	ips := []string{s.clusterIP(false).Addr().String(), s.clusterIP(true).Addr().String()}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: s.name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": s.pod},
			IPFamilyPolicy: &dual, ClusterIP: ips[0], ClusterIPs: ips,
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(7070), NodePort: int32(s.nodePort())},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: servicePort, TargetPort: intstr.FromInt32(5353), NodePort: int32(s.nodePort())},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: s.lb(false).Addr().String()}, {IP: s.lb(true).Addr().String()}}}},
	}
}

// addServices creates them, and waits until their slices have their pods.
func (s *setup) addServices(t *testing.T) {
	t.Helper()
	for _, svc := range services {
		_, err := s.cp.CreateService(s.ctx, svc.object())
		check(t, err)
	}
	for _, svc := range services {
		ofService := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.name}
		check(t, wait.PollUntilContextTimeout(s.ctx, 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			list, err := s.cp.Client().DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, ofService)
			if err != nil {
				return false, err
			}
			endpoints := 0
			for _, slice := range list.Items {
				endpoints += len(slice.Endpoints)
			}
			return endpoints == 2, nil // one of each family
		}))
	}
}

// backends are the addresses of all pods that services lead to.
func (s *setup) backends() (out []netip.Addr) {
	for _, svc := range services {
		out = append(out, s.pods[svc.pod].IP4, s.pods[svc.pod].IP6)
	}
	return out
}

func addrOf(h *topo.Host, v6 bool) netip.Addr {
	if v6 {
		return h.IP6
	}
	return h.IP4
}
