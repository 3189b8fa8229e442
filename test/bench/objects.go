// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// serviceAddr is the cluster IP of service i.
func serviceAddr(i int) netip.Addr { return offset4(10, 96, 1<<8, i) }

// endpointAddr is the address of an endpoint that does not exist.
func endpointAddr(i int) netip.Addr { return offset4(10, 128, 0, i) }

func offset4(a, b byte, base, i int) netip.Addr {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], uint32(a)<<24|uint32(b)<<16+uint32(base+i))
	return netip.AddrFrom4(raw)
}

const servicePort, targetPort = 80, 8080

// serviceObject is service i, a ClusterIP of one port.
func serviceObject(i int, protocol corev1.Protocol) *corev1.Service {
	ip := serviceAddr(i).String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: serviceName(i), UID: "0"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilies:            []corev1.IPFamily{corev1.IPv4Protocol},
			SessionAffinity:       corev1.ServiceAffinityNone,
			InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyCluster),
			Ports:                 []corev1.ServicePort{{Name: "p", Protocol: protocol, Port: servicePort, TargetPort: intstr.FromInt32(targetPort)}},
		},
	}
}

func serviceName(i int) string { return fmt.Sprintf("svc-%05d", i) }

// sliceObject is the slice of service i, with endpoints on a node.
func sliceObject(i int, protocol corev1.Protocol, node string, endpoints ...netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: serviceName(i) + "-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("p"), Protocol: ptr.To(protocol), Port: ptr.To[int32](targetPort)}},
	}
	for _, a := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, NodeName: ptr.To(node),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		})
	}
	return s
}

// fillerEndpoints are the addresses of the endpoints of service i. Each service
// has count.
func fillerEndpoints(i, count int) (addrs []netip.Addr) {
	for j := range count {
		addrs = append(addrs, endpointAddr(i*count+j))
	}
	return addrs
}
