// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// request is what one Service needs. The Service has defaults, and is valid.
type request struct {
	name    string // namespace/name
	service *v1.Service
	slots   []*slot
}

// slot is one thing that a Service needs: a cluster IP of a family, or a node port.
type slot struct {
	path  *field.Path
	want  claim // given in the manifest; zero if not
	prior claim // what the Service has had here; zero if nothing
	got   claim

	hashed   string      // the name that a choice is made by
	family   v1.IPFamily // "" for a port
	protocol v1.Protocol
	port     int32 // of the Service; 0 for the health check
	name     string
}

// fillSlots lists what the Service needs, with what it has had.
func (r *request) fillSlots(from ranges, had entry) {
	r.slots = r.clusterIPSlots(from, had)
	r.slots = append(r.slots, r.nodePortSlots(from, had)...)
	if needsHealthCheckPort(r.service) {
		s := &slot{
			path:     field.NewPath("spec", "healthCheckNodePort"),
			hashed:   r.name + "/healthCheckNodePort",
			protocol: v1.ProtocolTCP,
		}
		s.setPorts(from, r.service.Spec.HealthCheckNodePort, had.HealthCheckNodePort)
		r.slots = append(r.slots, s)
	}
}

func (r *request) clusterIPSlots(from ranges, had entry) []*slot {
	if !wantsClusterIP(r.service) {
		return nil
	}
	var slots []*slot
	spec := &r.service.Spec
	for i, family := range spec.IPFamilies {
		s := &slot{path: field.NewPath("spec", "clusterIPs").Index(i), hashed: r.name, family: family}
		if i < len(spec.ClusterIPs) {
			given, _ := parseAddr(spec.ClusterIPs[i])
			s.want = addrClaim(given)
		}
		for _, a := range had.ClusterIPs {
			if familyOf(a) == family && from.holds(a) {
				s.prior = addrClaim(a)
			}
		}
		slots = append(slots, s)
	}
	return slots
}

func (r *request) nodePortSlots(from ranges, had entry) []*slot {
	var slots []*slot
	for i, p := range r.service.Spec.Ports {
		if r.service.Spec.Type == v1.ServiceTypeExternalName || p.NodePort == 0 && !needsNodePorts(r.service) {
			continue
		}
		s := &slot{
			path:     field.NewPath("spec", "ports").Index(i).Child("nodePort"),
			hashed:   fmt.Sprintf("%s/%d/%s", r.name, p.Port, p.Protocol),
			protocol: p.Protocol,
			port:     p.Port,
			name:     p.Name,
		}
		before := int32(0)
		for _, n := range had.NodePorts {
			if n.Name == p.Name {
				before = n.NodePort
			}
		}
		s.setPorts(from, p.NodePort, before)
		slots = append(slots, s)
	}
	return slots
}

func (s *slot) setPorts(from ranges, given, before int32) {
	if given != 0 {
		s.want = portClaim(s.protocol, given)
	}
	if from.ports.Contains(int(before)) {
		s.prior = portClaim(s.protocol, before)
	}
}

// entry returns what the slots hold.
func (r *request) entry() entry {
	var e entry
	for _, s := range r.slots {
		switch {
		case s.family != "":
			e.ClusterIPs = append(e.ClusterIPs, s.got.addr)
		case s.port != 0:
			e.NodePorts = append(e.NodePorts, nodePort{Name: s.name, Protocol: s.protocol, NodePort: s.got.port})
		default:
			e.HealthCheckNodePort = s.got.port
		}
	}
	return e
}

// complete returns the Service with all that its entry gives it. Addresses that the manifest gives
// keep their spelling.
func (e entry) complete(wanted *v1.Service) *v1.Service {
	s := wanted.DeepCopy()
	if wantsClusterIP(s) {
		for i, a := range e.ClusterIPs {
			if i >= len(s.Spec.ClusterIPs) {
				s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, a.String())
			}
		}
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	for i := range s.Spec.Ports {
		for _, n := range e.NodePorts {
			if p := &s.Spec.Ports[i]; n.Name == p.Name {
				p.NodePort = n.NodePort
			}
		}
	}
	if needsHealthCheckPort(s) {
		s.Spec.HealthCheckNodePort = e.HealthCheckNodePort
	}
	if wantsIngress(s) {
		s.Status.LoadBalancer.Ingress = e.ingress()
	}
	return s
}

// covers reports whether an entry still holds all that a Service has.
func (e entry) covers(s *v1.Service) bool {
	again := &request{service: s}
	again.fillSlots(ranges{}, entry{})
	held := map[claim]bool{}
	for _, c := range e.claims() {
		held[c] = true
	}
	for _, slot := range again.slots {
		if !held[slot.want] {
			return false
		}
	}
	return true
}
