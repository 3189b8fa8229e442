// SPDX-License-Identifier: Apache-2.0

package control

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	discoveryv1 "k8s.io/kubernetes/pkg/apis/discovery/v1"
	kjson "sigs.k8s.io/json"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// FuzzObjects: an API server gives objects their defaults, without which kube-proxy's library
// can't read them. Whatever else is in them, none must bring the agent down, nor lead it to write
// what no packet could carry.
func FuzzObjects(f *testing.F) {
	const service = `{"metadata":{"name":"a","namespace":"d"},"spec":{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"ipFamilies":["IPv4","IPv6"],"ports":[{"name":"p","port":80,"protocol":"UDP","nodePort":30080}]}}`
	const slice = `{"metadata":{"name":"a-1","namespace":"d","labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv4","ports":[{"name":"p","port":8080,"protocol":"UDP"}],"endpoints":[{"addresses":["10.1.0.1"],"nodeName":"n","hints":{"forZones":[{"name":"z"}]}}]}`
	for _, seed := range [][2]string{
		{service, slice}, {`{}`, `{}`},
		{`{"spec":{"clusterIP":"x","ports":[{"port":-1}]}}`, `{"metadata":{"labels":{"kubernetes.io/service-name":""}},"endpoints":[{}],"ports":[{}]}`},
		{`{"spec":{"clusterIP":"None","type":"ExternalName"}}`, `{"addressType":"FQDN","endpoints":[{"addresses":["h"]}]}`},
		{`{"spec":{"clusterIP":"10.0.0.1","externalIPs":["","::ffff:1.2.3.4","1.2.3.4.5"],"loadBalancerSourceRanges":["0.0.0.0/33"," 10.0.0.0/8 "],"sessionAffinity":"ClientIP","ports":[{"port":80}]},"status":{"loadBalancer":{"ingress":[{"ip":"y","ipMode":"Z"},{}]}}}`, slice},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, rawService, rawSlice []byte) {
		var svc v1.Service
		var endpoints discovery.EndpointSlice
		if kjson.UnmarshalCaseSensitivePreserveInts(rawService, &svc) != nil ||
			kjson.UnmarshalCaseSensitivePreserveInts(rawSlice, &endpoints) != nil {
			return
		}
		corev1.SetObjectDefaults_Service(&svc)
		discoveryv1.SetObjectDefaults_EndpointSlice(&endpoints)
		for _, family := range maps.Families {
			tracker := newTracker(family, "n")
			tracker.services.Update(nil, &svc)
			tracker.slice(&endpoints, false)
			tracker.update()
			for name := range tracker.svcMap {
				checkPlan(t, tracker.plan(name, plan.Node{Name: "n"}))
			}
		}
	})
}

func checkPlan(t *testing.T, svc plan.Service) {
	t.Helper()
	for _, front := range svc.Frontends {
		if !front.Addr.IsValid() || maps.FamilyOf(front.Addr) != svc.Name.Family {
			t.Errorf("%s, a service of IPv%d, has the frontend %s", svc.Name, svc.Name.Family, front.Frontend)
		}
	}
	for _, set := range svc.Endpoints {
		for _, e := range set {
			if !e.Addr.IsValid() || maps.FamilyOf(e.Addr) != svc.Name.Family {
				t.Errorf("%s, a service of IPv%d, has the endpoint %s", svc.Name, svc.Name.Family, e.Addr)
			}
		}
	}
	for _, p := range svc.SourceRanges {
		if !p.IsValid() || p != p.Masked() {
			t.Errorf("%s has the source range %s", svc.Name, p)
		}
	}
}
