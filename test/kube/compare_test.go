// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// exception is a way in which the contract lets waggle differ from kube-proxy.
type exception struct {
	row  int
	says string
	// allows reports whether it covers a flow, given both outcomes.
	allows func(f flow, oracle, waggle outcome) bool
}

var exceptions = []exception{
	{9, "a client outside that was led to a ClusterIP keeps its address where the endpoint is on the node that it came to", func(f flow, oracle, waggle outcome) bool {
		return f.frontend.name == viaClusterIP && f.source.name == fromLaptop && sameButKept(oracle, waggle)
	}},
	{13, "with external policy Cluster the client's address is kept where that is possible", func(f flow, oracle, waggle outcome) bool {
		return f.isExternal() && !f.isExternalLocal() && sameButKept(oracle, waggle)
	}},
	{10, "an endpoint that reaches itself through its service may see itself", func(f flow, oracle, waggle outcome) bool {
		return f.source.name == fromHere && sameButKept(oracle, waggle)
	}},
	{14, "a pod of another node is no exception from external policy Local: kube-proxy leads it to any endpoint, whose answers miss it", func(f flow, oracle, waggle outcome) bool {
		return f.isExternalLocal() && f.isForeignPod() && oracle.ended[dropped] && waggle.String() == f.onlyLocal()
	}},
	{1, "what is for another proxy's service is left to that proxy, whose rules may come after our hooks; kube-proxy drops it after them", func(f flow, oracle, waggle outcome) bool {
		return f.service.name == otherProxy && f.frontend.name == viaClusterIP && oracle.String() == dropped && waggle.String() == gateway+" sees "+kept
	}},
	{11, "a node's own processes reach NodePorts on loopback addresses", func(f flow, oracle, waggle outcome) bool {
		reachesAll := len(waggle.ended) == 0 && len(waggle.reached) == len(f.service.pods)
		return f.frontend.name == viaLoopback && len(oracle.reached) == 0 && reachesAll
	}},
}

func (f flow) isExternal() bool {
	return slices.Contains([]string{viaNodePort1, viaNodePort2, viaExternalIP, viaLB}, f.frontend.name)
}

func (f flow) isExternalLocal() bool {
	return f.service.object().Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// isForeignPod reports whether a pod asks the node port of another node.
func (f flow) isForeignPod() bool {
	switch f.source.name {
	case fromPod, fromSandbox, fromHere:
		return f.frontend.name == viaNodePort2
	case fromPod2:
		return f.frontend.name == viaNodePort1
	}
	return false
}

// onlyLocal is the outcome of a flow that reaches the endpoint of the node that
// it is sent to, or is dropped where that has none.
func (f flow) onlyLocal() string {
	for _, name := range f.service.pods {
		if (name == there) == (f.frontend.name == viaNodePort2) {
			return outcome{reached: map[string]map[string]bool{name: {kept: true}}}.String()
		}
	}
	return dropped
}

// sameButKept reports whether two outcomes differ in nothing but that waggle has kept client
// addresses which kube-proxy has not.
func sameButKept(oracle, waggle outcome) bool {
	if !maps.Equal(oracle.ended, waggle.ended) || len(oracle.reached) != len(waggle.reached) {
		return false
	}
	for endpoint, seen := range oracle.reached {
		ours, ok := waggle.reached[endpoint]
		if !ok || !maps.Equal(ours, seen) && !(len(ours) == 1 && ours[kept]) {
			return false
		}
	}
	return true
}

// agree compares what came of a flow. If it differs and the contract allows
// that, it returns the exception.
func agree(f flow, oracle, waggle outcome) (bool, *exception) {
	if f.isSticky() {
		oracle, waggle = oracle.anyEndpoint(), waggle.anyEndpoint()
	}
	if oracle.String() == waggle.String() {
		return true, nil
	}
	for i := range exceptions {
		if exceptions[i].allows(f, oracle, waggle) {
			return true, &exceptions[i]
		}
	}
	return false, nil
}

func (f flow) isSticky() bool {
	return f.service.object().Spec.SessionAffinity == corev1.ServiceAffinityClientIP
}

// anyEndpoint makes the outcome of a flow that is led to one endpoint, but to a
// random one, comparable: the endpoint is "one", if it is one.
func (o outcome) anyEndpoint() outcome {
	if len(o.reached) != 1 {
		return o
	}
	// What the endpoint sees follows from where it is, so it says nothing either.
	return outcome{reached: map[string]map[string]bool{"one": {"any": true}}, ended: o.ended}
}

// entry is the node by which a flow comes to its service.
func (f flow) entry() string {
	onNode2 := f.source.name == fromPod2 || f.source.name == fromNode2
	if f.frontend.name == viaNodePort2 || onNode2 && f.frontend.name != viaNodePort1 {
		return fromNode2
	}
	return fromNode1
}

// unfaithful lists the clients of services with session affinity that one node has led to several
// endpoints, by one frontend or another: affinity knows no frontends, only service ports and
// clients.
func unfaithful(groups [][]flow, all map[string]outcome) (lines []string) {
	for _, group := range groups {
		reached := map[string]map[string]bool{}
		for _, f := range group {
			if !f.isSticky() {
				continue
			}
			if reached[f.entry()] == nil {
				reached[f.entry()] = map[string]bool{}
			}
			for endpoint := range all[f.String()].reached {
				reached[f.entry()][endpoint] = true
			}
		}
		for node, endpoints := range reached {
			if len(endpoints) != 1 {
				lines = append(lines, fmt.Sprintf("%s by %s, to all frontends: %s leads to %q", group[0].source.name, group[0].kind(), node, keys(endpoints)))
			}
		}
	}
	return lines
}
