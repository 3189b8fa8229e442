// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// service is a Service with every kind of frontend. Its addresses and node ports follow from its
// number.
type service struct {
	name   string
	app    string // what it selects; its name by default
	number int
	target int    // of http; 8080 by default
	policy string // more of its spec, as YAML
}

// port is one of the ports that such a service has.
type port struct {
	name     string
	number   uint16
	nodePort uint16 // the last digit
}

var (
	http = port{"http", 80, 0}
	echo = port{"echo", 7, 7}
	dns  = port{"dns", 53, 0}
)

// The number of service ports of a service, in both families.
const portsOfService = 6

func (s service) yaml() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %[1]s
spec:
  type: LoadBalancer
  selector: {app: %[2]s}
  ipFamilyPolicy: RequireDualStack
  %[5]s
  clusterIPs: ["10.96.0.%[3]d", "fd00:10:96::%[3]d"]
  ports:
  - {name: http, port: 80, targetPort: %[4]d, nodePort: 30%02[3]d0}
  - {name: echo, port: 7, targetPort: 7070, nodePort: 30%02[3]d7}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP, nodePort: 30%02[3]d0}
status:
  loadBalancer:
    ingress:
    - ip: 203.0.113.%[3]d
    - ip: "2001:db8::%[3]d"
`, s.name, cmp.Or(s.app, s.name), s.number, cmp.Or(s.target, 8080), s.policy)
}

func (s service) clusterIP(p port, v6 bool) netip.AddrPort {
	if v6 {
		return at(fmt.Sprintf("fd00:10:96::%d", s.number), p.number)
	}
	return at(fmt.Sprintf("10.96.0.%d", s.number), p.number)
}

func (s service) lb(p port, v6 bool) netip.AddrPort {
	if v6 {
		return at(fmt.Sprintf("2001:db8::%d", s.number), p.number)
	}
	return at(fmt.Sprintf("203.0.113.%d", s.number), p.number)
}

func (s service) nodePort(addr netip.Addr, p port) netip.AddrPort {
	return netip.AddrPortFrom(addr, 30000+10*uint16(s.number)+p.nodePort)
}

// way is a way to a service: a client, and an address.
type way struct {
	name   string
	client *topo.Client
	to     func(s service, p port, v6 bool) netip.AddrPort
}

// ways returns all ways by node-1.
func (s *setup) ways(c *clients) []way {
	node := s.Nodes[0]
	nodePort := func(svc service, p port, v6 bool) netip.AddrPort {
		return svc.nodePort(addrOf(node.Host, v6), p)
	}
	return []way{
		{"nodeport", c.laptop, nodePort},
		{"lb", c.laptop, service.lb},
		{"clusterip-socket", c.inside, service.clusterIP},
		{"clusterip-packet", c.outside, service.clusterIP},
	}
}

// byPacket returns the ways on which packets are translated, not sockets.
func (s *setup) byPacket(c *clients) []way {
	return slices.DeleteFunc(s.ways(c), func(w way) bool { return w.name == "clusterip-socket" })
}

func addrOf(h *topo.Host, v6 bool) netip.Addr {
	if v6 {
		return h.IP6
	}
	return h.IP4
}

var bothFamilies = []bool{false, true}

// addService writes a service's manifest.
func (s *setup) addService(t *testing.T, svc service) {
	t.Helper()
	check(t, s.manifests.Write(svc.name+".yaml", svc.yaml()))
}

// awaitPods waits until a service leads to exactly these pods, on all nodes.
func (s *setup) awaitPods(t *testing.T, svc service, pods ...*topo.Pod) {
	t.Helper()
	want := map[netip.Addr]bool{}
	for _, pod := range pods {
		want[pod.IP4], want[pod.IP6] = true, true
	}
	s.awaitEndpoints(t, svc, func(backends []netip.AddrPort) bool {
		have := map[netip.Addr]bool{}
		for _, b := range backends {
			have[b.Addr()] = true
			if !want[b.Addr()] {
				return false
			}
		}
		return len(have) == len(pods) // of the frontend's family
	})
}

// awaitEndpoints waits until done returns true for each frontend of a service, on all nodes.
func (s *setup) awaitEndpoints(t *testing.T, svc service, done func(backends []netip.AddrPort) bool) {
	t.Helper()
	for _, a := range s.agents {
		check(t, a.AwaitEndpoints(svc.name, func(all map[maps.Frontend][]netip.AddrPort) bool {
			for _, backends := range all {
				if !done(backends) {
					return false
				}
			}
			return len(all) > 0
		}))
	}
}

// atPod is the address at which a pod itself serves HTTP.
func atPod(pod *topo.Pod, v6 bool) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(pod.Host, v6), 8080)
}
