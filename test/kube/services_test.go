// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/waggle-lb/waggle/test/topo"
)

// Where load balancer addresses and external IPs come from: the laptop has
// routes to them by the first node.
var (
	lbs4       = netip.MustParsePrefix("203.0.113.0/24")
	lbs6       = netip.MustParsePrefix("2001:db8:1::/64")
	externals4 = netip.MustParsePrefix("198.18.0.0/24")
	externals6 = netip.MustParsePrefix("2001:db8:2::/64")
)

// The ports of all services, with both protocols.
const (
	servicePort = 80
	unusedPort  = 81
)

// service is a row of the oracle's objects: a LoadBalancer Service with every
// kind of frontend in both families, whose addresses follow from its number.
type service struct {
	name   string
	number int
	// rows are those of the contract that it is there for.
	rows []int
	// pods are those it selects.
	pods []string
	// edit is what is special about it.
	edit func(*corev1.Service)
}

// The pods that services lead to. Those that are leaving have been deleted, but
// their kubelet has not reported their end.
const (
	here, there       = "here", "there" // on the first and the second node
	leaving           = "leaving"       // on the first node
	unready           = "unready"       // on the first node
	otherProxy        = "other-proxy"
	gateway           = "gateway" // no endpoint, but where what leaks gets to
	serviceProxyLabel = "service.kubernetes.io/service-proxy-name"
)

func oracleServices() []service {
	all := []service{
		{name: "cluster", rows: []int{3, 5}, pods: []string{here, there}},
		{name: "etp-local", rows: []int{14, 15}, pods: []string{here}, edit: externalLocal},
		{name: "etp-local-both", rows: []int{14}, pods: []string{here, there}, edit: externalLocal},
		{name: "itp-local", rows: []int{19}, pods: []string{here}, edit: internalLocal},
		{name: "itp-local-both", rows: []int{19}, pods: []string{here, there}, edit: internalLocal},
		{name: "none", rows: []int{20}, pods: nil},
		{name: "none-etp-local", rows: []int{20}, pods: nil, edit: externalLocal},
		{name: "unready", rows: []int{20}, pods: []string{unready}},
		{name: "admits", rows: []int{18}, pods: []string{here, there}, edit: ranges("192.168.1.10/32", " fd00:192:168:1::10/128 ")},
		{name: "denies", rows: []int{18}, pods: []string{here, there}, edit: ranges("192.0.2.0/24", "2001:db8:3::/64")},
		{name: "denies-ipv4", rows: []int{18}, pods: []string{here, there}, edit: ranges("192.0.2.0/24")},
		{name: "admits-nodes", rows: []int{18}, pods: []string{here, there}, edit: ranges("192.168.1.2/31", "fd00:192:168:1::2/127")},
		{name: "sticky", rows: []int{27}, pods: []string{here, there}, edit: func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }},
		{name: "leaving", rows: []int{24}, pods: []string{leaving}},
		{name: "leaving-etp-local", rows: []int{24}, pods: []string{leaving}, edit: externalLocal},
		{name: "leaving-one", rows: []int{24}, pods: []string{leaving, there}, edit: externalLocal},
		{name: "zone", rows: []int{25, 26}, pods: []string{here, there}, edit: distribution(corev1.ServiceTrafficDistributionPreferSameZone)},
		{name: "node", rows: []int{25, 26}, pods: []string{here, there}, edit: distribution(corev1.ServiceTrafficDistributionPreferSameNode)},
		{name: "lb-proxied", rows: []int{17}, pods: []string{here, there}, edit: func(s *corev1.Service) {
			mode := corev1.LoadBalancerIPModeProxy
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].IPMode = &mode
			}
		}},
		{name: "other-proxy", rows: []int{1}, pods: []string{here, there}, edit: func(s *corev1.Service) {
			s.Labels = map[string]string{serviceProxyLabel: otherProxy}
		}},
	}
	for i := range all {
		all[i].number = i + 1
	}
	return all
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	s.Spec.InternalTrafficPolicy = &local
}

func ranges(cidrs ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = cidrs }
}

func distribution(d string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.TrafficDistribution = &d }
}

func familyAddr(v6 bool, format4, format6 string, number int) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf(format6, number))
	}
	return netip.MustParseAddr(fmt.Sprintf(format4, number))
}

func (s service) clusterIP(v6 bool) netip.Addr {
	return familyAddr(v6, "10.96.1.%d", "fd00:10:96::1%02x", s.number)
}

func (s service) externalIP(v6 bool) netip.Addr {
	return familyAddr(v6, "198.18.0.%d", "2001:db8:2::%x", s.number)
}

func (s service) lbIP(v6 bool) netip.Addr {
	return familyAddr(v6, "203.0.113.%d", "2001:db8:1::%x", s.number)
}

func (s service) nodePort() uint16 { return 30000 + uint16(s.number) }

// selects is the label by which a service selects its pods.
func (s service) selects() string { return "in-" + s.name }

func (s service) object() *corev1.Service {
	dual := corev1.IPFamilyPolicyRequireDualStack
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: s.name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeLoadBalancer,
			Selector:       map[string]string{s.selects(): "yes"},
			IPFamilyPolicy: &dual,
			ClusterIP:      s.clusterIP(false).String(),
			ClusterIPs:     []string{s.clusterIP(false).String(), s.clusterIP(true).String()},
			ExternalIPs:    []string{s.externalIP(false).String(), s.externalIP(true).String()},
			Ports: []corev1.ServicePort{
				{Name: "http", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(8080), NodePort: int32(s.nodePort())},
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: servicePort, TargetPort: intstr.FromInt32(5353), NodePort: int32(s.nodePort())},
			},
		},
	}
	for _, v6 := range bothFamilies {
		ingress := corev1.LoadBalancerIngress{IP: s.lbIP(v6).String()}
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, ingress)
	}
	if s.edit != nil {
		s.edit(o)
	}
	return o
}

var bothFamilies = []bool{false, true}

// addOracleObjects makes the pods and the services, with all their slices.
func (s *setup) addOracleObjects(t *testing.T, services []service) map[string]*topo.Pod {
	t.Helper()
	pods := map[string]*topo.Pod{}
	for _, p := range []struct {
		name string
		node int
	}{{here, 0}, {there, 1}, {leaving, 0}, {unready, 0}} {
		labels := map[string]string{}
		for _, svc := range services {
			for _, name := range svc.pods {
				if name == p.name {
					labels[svc.selects()] = "yes"
				}
			}
		}
		pods[p.name] = s.addPod(t, p.node, p.name, labels)
	}
	check(t, s.setReady(unready, false))
	const longAfterTheTest = 24 * 3600
	check(t, s.cp.DeletePod(s.ctx, metav1.NamespaceDefault, leaving, longAfterTheTest))
	for _, svc := range services {
		s.addService(t, svc.object(), len(svc.pods))
	}
	return pods
}

// setReady reports a pod's readiness, as its kubelet would.
func (s *setup) setReady(name string, ready bool) error {
	pods := s.cp.Client().CoreV1().Pods(metav1.NamespaceDefault)
	pod, err := pods.Get(s.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	_, err = pods.UpdateStatus(s.ctx, pod, metav1.UpdateOptions{})
	return err
}
