// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	v4, v6   = v1.IPv4Protocol, v1.IPv6Protocol
	require  = v1.IPFamilyPolicyRequireDualStack
	prefer   = v1.IPFamilyPolicyPreferDualStack
	first    = "IPAddressPool metallb-system/first"
	shareKey = "metallb.io/allow-shared-ip"
	shareC   = "lbipam.cilium.io/sharing-key"
	acrossC  = "lbipam.cilium.io/sharing-cross-namespace"
	ipsM     = "metallb.io/loadBalancerIPs"
	ipsC     = "lbipam.cilium.io/ips"
	poolM    = "metallb.io/address-pool"
)

// TestPlan is a table of the rules. Where a pool has one address, it is clear which one a Service gets.
func TestPlan(t *testing.T) {
	one := metallb("first", "192.0.2.1/32")
	two := one + metallb("second", "192.0.2.2/32")
	dual := metallb("first", "192.0.2.1/32, 2001:db8::1/128")
	for _, c := range []struct {
		name     string
		docs     string
		classes  Classes
		services []Service
		want     []string // the addresses of each Service then
		problems []string // a part of each
	}{
		{name: "no pools", services: []Service{service("a")}, want: []string{""}},
		{name: "an address", docs: one, services: []Service{service("a")}, want: []string{"192.0.2.1"}},
		{name: "other types", docs: one, services: []Service{service("a", typed(v1.ServiceTypeNodePort))}, want: []string{""}},
		{name: "exhausted", docs: one, services: []Service{service("a"), service("b")}, want: []string{"192.0.2.1", ""},
			problems: []string{"Service default/b: spec.type: no pool gives it an address: " + first + " is exhausted (spec.addresses)"}},
		{name: "the older first", docs: one, services: []Service{service("a", created(2)), service("b", created(1))}, want: []string{"", "192.0.2.1"},
			problems: []string{"Service default/a: spec.type"}},
		{name: "who has an address, first of all", docs: one, services: []Service{service("a", created(1)), service("b", created(2), has("192.0.2.1", first))},
			want: []string{"", "192.0.2.1"}, problems: []string{"Service default/a: spec.type"}},

		// Whose a Service is.
		{name: "another class", docs: one, services: []Service{service("a", class("other.example"))}, want: []string{""}},
		{name: "another class's address is in use", docs: one, services: []Service{service("a", class("other.example"), has("192.0.2.1", "")), service("b")},
			want: []string{"192.0.2.1", ""}, problems: []string{"Service default/b: spec.type"}},
		{name: "our class", docs: two, classes: Classes{"ours.example"}, services: []Service{service("a", class("ours.example"), asks("192.0.2.1")), service("b")}, want: []string{"192.0.2.1", ""}},
		{name: "our class, and none", docs: two, classes: Classes{"ours.example", NoClass},
			services: []Service{service("a", class("ours.example"), asks("192.0.2.1")), service("b")}, want: []string{"192.0.2.1", "192.0.2.2"}},
		{name: "another controller's address", docs: one, services: []Service{service("a", has("203.0.113.9", ""))}, want: []string{"203.0.113.9"}},
		{name: "another controller's, and one of a pool", docs: one, services: []Service{service("a", has("203.0.113.9", ""), has("192.0.2.1", ""))}, want: []string{"203.0.113.9 192.0.2.1"}},
		{name: "another controller's host name", docs: one, services: []Service{service("a", func(s *Service) { s.Foreign = true })}, want: []string{""}},
		{name: "an address of a pool that another controller gave is adopted", docs: one, services: []Service{service("a", has("192.0.2.1", ""))}, want: []string{"192.0.2.1"}},

		// What a Service has is kept.
		{name: "no load balancer any more", docs: one, services: []Service{service("a", typed(v1.ServiceTypeClusterIP), has("192.0.2.1", first)), service("b")}, want: []string{"", "192.0.2.1"}},
		{name: "the pool is gone", docs: metallb("second", "192.0.2.2/32"), services: []Service{service("a", has("192.0.2.1", first))}, want: []string{"192.0.2.1"},
			problems: []string{"Service default/a: status.loadBalancer: 192.0.2.1 is kept though no pool has it any more: it is from " + first}},
		{name: "all pools are gone", services: []Service{service("a", has("192.0.2.1", first))}, want: []string{"192.0.2.1"}, problems: []string{"192.0.2.1 is kept though no pool has it"}},
		{name: "the pool is for others now", docs: metallb("first", "192.0.2.1/32", "serviceAllocation: {namespaces: [blue]}"),
			services: []Service{service("a", has("192.0.2.1", first))}, want: []string{"192.0.2.1"},
			problems: []string{"192.0.2.1 is kept though " + first + " is for other namespaces (spec.serviceAllocation)"}},
		{name: "the pool is disabled now", docs: cilium("first", "{cidr: 192.0.2.1/32}", "disabled: true"), services: []Service{service("a", has("192.0.2.1", "CiliumLoadBalancerIPPool first")), service("b")},
			want: []string{"192.0.2.1", ""}, problems: []string{"CiliumLoadBalancerIPPool first is disabled (spec.disabled)"}},
		{name: "the pool is malformed now", docs: metallb("first", "192.0.2.0/24, oops"), services: []Service{service("a", has("192.0.2.1", first)), service("b")}, want: []string{"192.0.2.1", ""},
			problems: []string{first + `: spec.addresses[1]: Invalid value: "oops": neither a network`, "Service default/b: spec.type: no pool gives it an address: " + first + " is malformed (spec.addresses[1])"}},
		{name: "two have one address, and may not", docs: one, services: []Service{service("a", has("192.0.2.1", first)), service("b", has("192.0.2.1", first))}, want: []string{"192.0.2.1", "192.0.2.1"},
			problems: []string{"is in use by Service default/b: it has no sharing key", "is in use by Service default/a: it has no sharing key"}},

		// Asking.
		{name: "loadBalancerIP", docs: metallb("first", "192.0.2.0/24"), services: []Service{service("a", asks("192.0.2.77"))}, want: []string{"192.0.2.77"}},
		{name: "MetalLB's annotation", docs: metallb("first", "192.0.2.0/24"), services: []Service{service("a", annotated(ipsM, "192.0.2.77"))}, want: []string{"192.0.2.77"}},
		{name: "MetalLB's old annotation", docs: metallb("first", "192.0.2.0/24"), services: []Service{service("a", annotated("metallb.universe.tf/loadBalancerIPs", "192.0.2.77"))}, want: []string{"192.0.2.77"}},
		{name: "Cilium's annotation", docs: cilium("first", "{cidr: 192.0.2.0/24}"), services: []Service{service("a", annotated(ipsC, "192.0.2.77, 192.0.2.78"))}, want: []string{"192.0.2.77 192.0.2.78"}},
		{name: "Cilium's annotation and the field", docs: cilium("first", "{cidr: 192.0.2.0/24}"), services: []Service{service("a", annotated(ipsC, "192.0.2.77"), asks("192.0.2.78"))}, want: []string{"192.0.2.77 192.0.2.78"}},
		{name: "both annotations, and they agree", docs: one, services: []Service{service("a", annotated(ipsM, "192.0.2.1"), annotated(ipsC, "192.0.2.1"))}, want: []string{"192.0.2.1"}},
		{name: "both annotations, and they differ", docs: two, services: []Service{service("a", annotated(ipsM, "192.0.2.1"), annotated(ipsC, "192.0.2.2"))}, want: []string{""},
			problems: []string{"Service default/a: metadata.annotations[metallb.io/loadBalancerIPs]: asks for other addresses than metadata.annotations[lbipam.cilium.io/ips]"}},
		{name: "not an address", docs: one, services: []Service{service("a", annotated(ipsM, "here"))}, want: []string{""},
			problems: []string{`Service default/a: metadata.annotations[metallb.io/loadBalancerIPs]: "here" is not an IP address`}},
		{name: "outside of all pools", docs: one, services: []Service{service("a", asks("203.0.113.1"))}, want: []string{""},
			problems: []string{"Service default/a: spec.loadBalancerIP: 203.0.113.1 is in no pool: there are " + first + " (spec.addresses)"}},
		{name: "in use", docs: one, services: []Service{service("a", has("192.0.2.1", first)), service("b", asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"Service default/b: spec.loadBalancerIP: 192.0.2.1 is in use by Service default/a: it has no sharing key"}},
		{name: "two of one family, of MetalLB", docs: metallb("first", "192.0.2.0/24"), services: []Service{service("a", annotated(ipsM, "192.0.2.1,192.0.2.2"))}, want: []string{""},
			problems: []string{"more than one IPv4 address"}},
		{name: "another family", docs: dual, services: []Service{service("a", asks("2001:db8::1"))}, want: []string{""}, problems: []string{"2001:db8::1 is IPv6, and the Service is not (spec.ipFamilies)"}},
		{name: "one of two families required", docs: dual, services: []Service{service("a", families(require, v4, v6), asks("192.0.2.1"))}, want: []string{""},
			problems: []string{"an address of each family is needed (spec.ipFamilyPolicy: RequireDualStack)"}},
		{name: "another address than it has", docs: metallb("first", "192.0.2.0/24"), services: []Service{service("a", has("192.0.2.1", first), asks("192.0.2.77"))}, want: []string{"192.0.2.77"}},
		{name: "another address, which isn't to be had", docs: one, services: []Service{service("a", has("192.0.2.1", first), asks("192.0.2.77"))}, want: []string{"192.0.2.1"},
			problems: []string{"192.0.2.77 is in no pool: there are " + first + " (spec.addresses) (it keeps 192.0.2.1)"}},
		{name: "a buggy address", docs: metallb("first", "192.0.2.0/24", "avoidBuggyIPs: true"), services: []Service{service("a", asks("192.0.2.255"))}, want: []string{""},
			problems: []string{"192.0.2.255 is not given: " + first + " spec.avoidBuggyIPs excludes it"}},
		{name: "a pool", docs: two, services: []Service{service("a", annotated(poolM, "second"))}, want: []string{"192.0.2.2"}},
		{name: "a pool that there is not", docs: two, services: []Service{service("a", annotated(poolM, "third"))}, want: []string{""},
			problems: []string{"Service default/a: metadata.annotations[metallb.io/address-pool]: there is no IPAddressPool third"}},
		{name: "an address of another pool", docs: two, services: []Service{service("a", annotated(poolM, "second"), asks("192.0.2.1"))}, want: []string{""},
			problems: []string{"192.0.2.1 is of " + first + ", and metadata.annotations[metallb.io/address-pool] asks for second"}},
		{name: "another pool than it has", docs: two, services: []Service{service("a", annotated(poolM, "second"), has("192.0.2.1", first))}, want: []string{"192.0.2.2"}},
		{name: "another pool, which is exhausted", docs: two, services: []Service{service("b", has("192.0.2.2", "")), service("a", annotated(poolM, "second"), has("192.0.2.1", first))}, want: []string{"192.0.2.2", "192.0.2.1"},
			problems: []string{"IPAddressPool metallb-system/second is exhausted (spec.addresses) (it keeps 192.0.2.1)"}},
		{name: "its pool, which was edited", docs: metallb("first", "192.0.2.9/32"), services: []Service{service("a", annotated(poolM, "first"), has("192.0.2.1", first))}, want: []string{"192.0.2.1"},
			problems: []string{"192.0.2.1 is kept though no pool has it any more"}},

		// Which pool.
		{name: "autoAssign: false", docs: metallb("first", "192.0.2.1/32", "autoAssign: false"), services: []Service{service("a")}, want: []string{""},
			problems: []string{first + " gives only to who asks for it (spec.autoAssign)"}},
		{name: "autoAssign: false, by name", docs: metallb("first", "192.0.2.1/32", "autoAssign: false"), services: []Service{service("a", annotated(poolM, "first"))}, want: []string{"192.0.2.1"}},
		{name: "autoAssign: false, by address", docs: metallb("first", "192.0.2.1/32", "autoAssign: false"), services: []Service{service("a", asks("192.0.2.1"))}, want: []string{"192.0.2.1"}},
		{name: "priority", docs: metallb("a", "192.0.2.1/32", "serviceAllocation: {priority: 50}") + metallb("b", "192.0.2.2/32", "serviceAllocation: {priority: 10}") + metallb("c", "192.0.2.3/32", "serviceAllocation: {}"),
			services: []Service{service("a", created(1)), service("b", created(2)), service("c", created(3))}, want: []string{"192.0.2.2", "192.0.2.1", "192.0.2.3"}},
		{name: "a pool for some before one for all", docs: metallb("a", "192.0.2.1/32") + metallb("b", "192.0.2.2/32", "serviceAllocation: {namespaces: [default]}"), services: []Service{service("a")}, want: []string{"192.0.2.2"}},
		{name: "namespaces", docs: metallb("first", "192.0.2.1/32", "serviceAllocation: {namespaces: [blue]}"), services: []Service{service("a"), service("a", in("blue"))}, want: []string{"", "192.0.2.1"},
			problems: []string{"Service default/a: spec.type: no pool gives it an address: " + first + " is for other namespaces"}},
		{name: "namespaceSelectors", docs: metallb("first", "192.0.2.1/32", "serviceAllocation: {namespaceSelectors: [{matchLabels: {colour: blue}}]}"), services: []Service{service("a"), service("a", in("blue"))},
			want: []string{"", "192.0.2.1"}, problems: []string{"Service default/a"}},
		{name: "serviceSelectors", docs: metallb("first", "192.0.2.1/32", "serviceAllocation: {serviceSelectors: [{matchLabels: {colour: blue}}]}"), services: []Service{service("a"), service("b", labelled("colour", "blue"))},
			want: []string{"", "192.0.2.1"}, problems: []string{first + " is for other Services (spec.serviceAllocation.serviceSelectors)"}},
		{name: "a pool for others, by address", docs: metallb("first", "192.0.2.1/32", "serviceAllocation: {namespaces: [blue]}"), services: []Service{service("a", asks("192.0.2.1"))}, want: []string{""},
			problems: []string{"192.0.2.1 is not given: " + first + " is for other namespaces (spec.serviceAllocation)"}},
		{name: "Cilium's selector", docs: cilium("first", "{cidr: 192.0.2.1/32}", "serviceSelector: {matchExpressions: [{key: colour, operator: In, values: [blue, cyan]}]}"),
			services: []Service{service("a"), service("b", labelled("colour", "blue"))}, want: []string{"", "192.0.2.1"}, problems: []string{"is for other Services (spec.serviceSelector)"}},
		{name: "Cilium's key of the namespace", docs: cilium("first", "{cidr: 192.0.2.1/32}", "serviceSelector: {matchLabels: {io.kubernetes.service.namespace: blue}}"),
			services: []Service{service("a"), service("a", in("blue"))}, want: []string{"", "192.0.2.1"}, problems: []string{"Service default/a"}},
		{name: "Cilium's key of the name", docs: cilium("first", "{cidr: 192.0.2.1/32}", "serviceSelector: {matchLabels: {io.kubernetes.service.name: b}}"),
			services: []Service{service("a"), service("b")}, want: []string{"", "192.0.2.1"}, problems: []string{"Service default/a"}},
		{name: "disabled", docs: cilium("first", "{cidr: 192.0.2.1/32}", "disabled: true"), services: []Service{service("a"), service("b", asks("192.0.2.1"))}, want: []string{"", ""},
			problems: []string{"Service default/a", "192.0.2.1 is not given: CiliumLoadBalancerIPPool first is disabled (spec.disabled)"}},
		{name: "overlapping pools", docs: metallb("a", "192.0.2.1/32") + metallb("b", "192.0.2.0/30"), services: []Service{service("a"), service("b")}, want: []string{"192.0.2.1", ""},
			problems: []string{"IPAddressPool metallb-system/b: spec.addresses[0]: 192.0.2.0-192.0.2.3 overlaps 192.0.2.1 of IPAddressPool metallb-system/a (spec.addresses[0])",
				"Service default/b: spec.type: no pool gives it an address: IPAddressPool metallb-system/a is exhausted (spec.addresses); IPAddressPool metallb-system/b overlaps IPAddressPool metallb-system/a"}},
		{name: "a pool that overlaps only one that gives nothing", docs: metallb("a", "192.0.2.1/32") + metallb("b", "192.0.2.1/32, 192.0.2.2/32") + metallb("c", "192.0.2.2/32"),
			services: []Service{service("a", asks("192.0.2.2"))}, want: []string{"192.0.2.2"}, problems: []string{"IPAddressPool metallb-system/b: spec.addresses[0]"}},
		{name: "a pool that overlaps itself", docs: metallb("a", "192.0.2.0/30, 192.0.2.1-192.0.2.9"), services: []Service{service("a")}, want: []string{""},
			problems: []string{"IPAddressPool metallb-system/a: spec.addresses[1]: 192.0.2.1-192.0.2.9 overlaps 192.0.2.0-192.0.2.3", "Service default/a"}},

		// Families.
		{name: "IPv6", docs: dual, services: []Service{service("a", families(v1.IPFamilyPolicySingleStack, v6))}, want: []string{"2001:db8::1"}},
		{name: "both", docs: dual, services: []Service{service("a", families(require, v6, v4))}, want: []string{"2001:db8::1 192.0.2.1"}},
		{name: "both, asked for", docs: metallb("first", "192.0.2.0/24, 2001:db8::/64"), services: []Service{service("a", families(require, v4, v6), annotated(ipsM, "192.0.2.9, 2001:db8::9"))}, want: []string{"192.0.2.9 2001:db8::9"}},
		{name: "both required, and one is there", docs: one, services: []Service{service("a", families(require, v4, v6))}, want: []string{""}, problems: []string{first + " has no IPv6 addresses (spec.addresses)"}},
		{name: "both required, of two pools of MetalLB's", docs: one + metallb("six", "2001:db8::1/128"), services: []Service{service("a", families(require, v4, v6))}, want: []string{""},
			problems: []string{first + " has no IPv6 addresses (spec.addresses); IPAddressPool metallb-system/six has no IPv4 addresses"}},
		{name: "both required, of two pools of Cilium's", docs: cilium("four", "{cidr: 192.0.2.1/32}") + cilium("six", "{cidr: '2001:db8::1/128'}"), services: []Service{service("a", families(require, v4, v6))}, want: []string{"192.0.2.1 2001:db8::1"}},
		{name: "both preferred, and one is there", docs: metallb("six", "2001:db8::1/128") + one, services: []Service{service("a", families(prefer, v4, v6))}, want: []string{"192.0.2.1"}},
		{name: "both preferred, and the second is there", docs: metallb("six", "2001:db8::1/128"), services: []Service{service("a", families(prefer, v4, v6))}, want: []string{"2001:db8::1"}},
		{name: "both preferred, one of each to choose", docs: one + metallb("zz", "192.0.2.9/32, 2001:db8::1/128"), services: []Service{service("a", families(prefer, v4, v6))}, want: []string{"192.0.2.9 2001:db8::1"}},
		{name: "a family more", docs: dual, services: []Service{service("a", families(prefer, v4, v6), has("192.0.2.1", first))}, want: []string{"192.0.2.1 2001:db8::1"}},
		{name: "a family more, of another pool", docs: one + metallb("six", "2001:db8::1/128"), services: []Service{service("a", families(prefer, v4, v6), has("192.0.2.1", first))}, want: []string{"192.0.2.1"}},
		{name: "a family more, required", docs: one, services: []Service{service("a", families(require, v4, v6), has("192.0.2.1", first))}, want: []string{"192.0.2.1"},
			problems: []string{"Service default/a: spec.ipFamilyPolicy: RequireDualStack, and no IPv6 address is free where 192.0.2.1 is from, " + first + " (it keeps 192.0.2.1)"}},
		{name: "a family less", docs: dual, services: []Service{service("a", has("192.0.2.1", first), has("2001:db8::1", first)), service("b", families(v1.IPFamilyPolicySingleStack, v6))}, want: []string{"192.0.2.1", "2001:db8::1"}},

		// Sharing.
		{name: "one key", docs: two, services: []Service{service("a", annotated(shareKey, "k")), service("b", annotated(shareKey, "k"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.1", "192.0.2.1"}},
		{name: "one key, and one port of two protocols", docs: one, services: []Service{service("a", annotated(shareKey, "k")), service("b", annotated(shareKey, "k"), port(80, v1.ProtocolUDP))}, want: []string{"192.0.2.1", "192.0.2.1"}},
		{name: "one key, and one port", docs: two, services: []Service{service("a", annotated(shareKey, "k")), service("b", annotated(shareKey, "k"))}, want: []string{"192.0.2.1", "192.0.2.2"}},
		{name: "one key, in two namespaces", docs: one, services: []Service{service("a", annotated(shareKey, "k")), service("b", in("blue"), annotated(shareKey, "k"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.1", "192.0.2.1"}},
		{name: "two keys", docs: one, services: []Service{service("a", annotated(shareKey, "k")), service("b", annotated(shareKey, "l"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"their sharing keys differ"}},
		{name: "keys of two products", docs: one, services: []Service{service("a", annotated(shareKey, "k")), service("b", annotated(shareC, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"their sharing keys differ"}},
		{name: "the other has no key", docs: one, services: []Service{service("a"), service("b", annotated(shareKey, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"that one has no sharing key"}},
		{name: "two policies", docs: one, services: []Service{service("a", annotated(shareKey, "k")), service("b", local("a"), annotated(shareKey, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"their externalTrafficPolicy differs"}},
		{name: "Local, and one selector", docs: one, services: []Service{service("a", local("x"), annotated(shareKey, "k")), service("b", local("x"), annotated(shareKey, "k"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.1", "192.0.2.1"}},
		{name: "Local, and two selectors", docs: one, services: []Service{service("a", local("x"), annotated(shareKey, "k")), service("b", local("y"), annotated(shareKey, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"with externalTrafficPolicy Local they must have the same selector"}},
		{name: "Cilium's key", docs: cilium("first", "{cidr: 192.0.2.0/24}"), services: []Service{service("a", annotated(shareC, "k"), asks("192.0.2.9")), service("b", annotated(shareC, "k"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.9", "192.0.2.9"}},
		{name: "Cilium's key, the other pool's address first", docs: cilium("a", "{cidr: 192.0.2.1/32}") + cilium("b", "{cidr: 192.0.2.2/32}"),
			services: []Service{service("a", annotated(shareC, "k"), has("192.0.2.2", "")), service("b", annotated(shareC, "k"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.2", "192.0.2.2"}},
		{name: "Cilium's key, in two namespaces", docs: one, services: []Service{service("a", annotated(shareC, "k")), service("b", in("blue"), created(1), annotated(shareC, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"it is in another namespace, and lbipam.cilium.io/sharing-cross-namespace does not allow that in both"}},
		{name: "Cilium's key, in two namespaces, one allows it", docs: one, services: []Service{service("a", annotated(shareC, "k"), annotated(acrossC, "*")), service("b", in("blue"), created(1), annotated(shareC, "k"), port(81, v1.ProtocolTCP), asks("192.0.2.1"))}, want: []string{"192.0.2.1", ""},
			problems: []string{"does not allow that in both"}},
		{name: "Cilium's key, in two namespaces, both allow it", docs: one, services: []Service{service("a", annotated(shareC, "k"), annotated(acrossC, "blue,green")), service("b", in("blue"), created(1), annotated(shareC, "k"), annotated(acrossC, "*"), port(81, v1.ProtocolTCP))}, want: []string{"192.0.2.1", "192.0.2.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, c.docs, c.classes, c.services...)
			var got []string
			for _, s := range c.services {
				got = append(got, addrs(s))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			problems := problemsOf(p)
			if !slices.EqualFunc(problems, c.problems, strings.Contains) {
				t.Errorf("problems\n%s\nwant\n%s", strings.Join(problems, "\n"), strings.Join(c.problems, "\n"))
			}
			if again := plan(t, c.docs, c.classes, c.services...); len(again.Changes) > 0 {
				t.Errorf("the second plan changes %+v", again.Changes)
			}
		})
	}
}

// TestAddressesOfPools: which addresses of a pool are given, all of which a Service gets for each.
func TestAddressesOfPools(t *testing.T) {
	for _, c := range []struct{ docs, want string }{
		{metallb("a", "192.0.2.0/30"), "192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.3"},
		{metallb("a", "192.0.2.6/30"), "192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7"},
		{metallb("a", "192.0.2.9 - 192.0.2.10, 192.0.2.20-192.0.2.20"), "192.0.2.9 192.0.2.10 192.0.2.20"},
		{metallb("a", "192.0.2.254-192.0.3.1", "avoidBuggyIPs: true"), "192.0.2.254 192.0.3.1"},
		{cilium("a", "{cidr: 192.0.2.0/30}"), "192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.3"},
		{cilium("a", "{cidr: 192.0.2.0/30}", "allowFirstLastIPs: 'Yes'"), "192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.3"},
		{cilium("a", "{cidr: 192.0.2.0/30}", "allowFirstLastIPs: 'No'"), "192.0.2.1 192.0.2.2"},
		{cilium("a", "{cidr: 192.0.2.0/31}, {start: 192.0.2.8, stop: 192.0.2.10}, {start: 192.0.2.20}", "allowFirstLastIPs: 'No'"), "192.0.2.0 192.0.2.1 192.0.2.8 192.0.2.9 192.0.2.10 192.0.2.20"},
	} {
		var services []Service
		for i := range 8 {
			services = append(services, service(string(rune('a'+i))))
		}
		p := plan(t, c.docs, nil, services...)
		var got []string
		for _, a := range p.Addresses {
			got = append(got, a.Addr.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s\ngives %v, want %s", c.docs, got, c.want)
		}
	}
}

// TestReserved: what a Service has that is not known is not given, neither alone, nor on request, nor to share.
func TestReserved(t *testing.T) {
	reserved := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		services []Service
		want     string // of the last one
	}{
		{[]Service{service("a")}, ""},
		{[]Service{service("a", asks("192.0.2.1"))}, ""},
		{[]Service{service("a", annotated(shareKey, "k"), has("192.0.2.1", first)), service("b", annotated(shareKey, "k"), port(81, v1.ProtocolTCP))}, ""},
	} {
		p := Make(Input{Set: NewSet(documents(t, metallb("first", "192.0.2.1/32"))), Services: c.services, Reserved: []netip.Addr{reserved}})
		carryOut(c.services, p)
		if got := addrs(c.services[len(c.services)-1]); got != c.want || len(p.Problems) != 1 {
			t.Errorf("got %q, problems %v", got, problemsOf(p))
		}
	}
}

// TestLargePools: neither their size nor how full they are makes a search long or wrong.
func TestLargePools(t *testing.T) {
	for _, docs := range []string{metallb("a", "2001:db8::/32"), metallb("a", "'::/0'"), metallb("a", "2001:db8::/64, 2001:db8:1::/64"), cilium("a", "{cidr: '2001:db8::/48'}", "allowFirstLastIPs: 'No'")} {
		s := []Service{service("a", families(v1.IPFamilyPolicySingleStack, v6)), service("b", families(v1.IPFamilyPolicySingleStack, v6))}
		p := plan(t, docs, nil, s...)
		if len(p.Addresses) != 2 || !NewSet(documents(t, docs)).Pools[0].has(s[0].Has[0].Addr) {
			t.Errorf("%s: %+v", docs, p.Addresses)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ docs, want string }{
		{metallb("a", ""), first1("spec.addresses: Required value: a pool without addresses")},
		{metallb("a", "192.0.2.1"), first1(`spec.addresses[0]: Invalid value: "192.0.2.1": neither a network`)},
		{metallb("a", "192.0.2.9-192.0.2.1"), first1(`spec.addresses[0]: Invalid value: "192.0.2.9-192.0.2.1": 192.0.2.9 comes after 192.0.2.1`)},
		{metallb("a", "'192.0.2.9-2001:db8::1'"), first1(`spec.addresses[0]: Invalid value: "192.0.2.9-2001:db8::1": 192.0.2.9 and 2001:db8::1 are of different families`)},
		{metallb("a", "192.0.2.9-"), first1(`spec.addresses[0]: Invalid value: "192.0.2.9-": "" is not an IP address`)},
		{metallb("a", "'::ffff:192.0.2.0/120'"), first1(`spec.addresses[0]: Invalid value: "::ffff:192.0.2.0/120": write IPv4 addresses as such`)},
		{metallb("a", "192.0.2.0/24", "serviceAllocation: {priority: -1}"), first1("spec.serviceAllocation.priority: Invalid value: -1: must not be negative")},
		{metallb("a", "192.0.2.0/24", "serviceAllocation: {serviceSelectors: [{matchLabels: {'!': a}}]}"), first1("spec.serviceAllocation.serviceSelectors[0]: Invalid value")},
		{metallb("a", "192.0.2.0/24", "serviceAllocation: {namespaceSelectors: [{}, {matchExpressions: [{key: a, operator: Of}]}]}"), first1("spec.serviceAllocation.namespaceSelectors[1]: Invalid value")},
		{cilium("a", "{cidr: 192.0.2.0}"), firstC(`spec.blocks[0].cidr: Invalid value: "192.0.2.0": not a network`)},
		{cilium("a", "{stop: 192.0.2.0}"), firstC("spec.blocks[0]: Required value: cidr or start")},
		{cilium("a", "{start: 192.0.2.9, stop: 192.0.2.0}"), firstC(`spec.blocks[0].start: Invalid value: "192.0.2.9": 192.0.2.9 comes after`)},
		{cilium("a", "", "allowFirstLastIPs: Maybe"), firstC(`spec.allowFirstLastIPs: Unsupported value: "Maybe"`)},
		{cilium("a", "", "serviceSelector: {matchExpressions: [{key: a, operator: Of}]}"), firstC("spec.serviceSelector: Invalid value")},
		{"apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: a, namespace: ns}\nspec: {nodeSelectors: [{matchExpressions: [{key: a, operator: Of}]}]}", "L2Advertisement ns/a: spec.nodeSelectors[0]: Invalid value"},
		{"apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: a, namespace: ns}\nspec: {preferredNodeSelectors: [{weight: 0, preference: {}}]}", "L2Advertisement ns/a: spec.preferredNodeSelectors[0].weight: Invalid value: 0: must be from 1 to 100"},
		{"apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: a, namespace: ns}\nspec: {interfaces: ['']}", "L2Advertisement ns/a: spec.interfaces[0]: Required value"},
		{"apiVersion: cilium.io/v2alpha1\nkind: CiliumL2AnnouncementPolicy\nmetadata: {name: a}\nspec: {interfaces: ['(']}", "CiliumL2AnnouncementPolicy a: spec.interfaces[0]: Invalid value"},
		{"apiVersion: cilium.io/v2alpha1\nkind: CiliumL2AnnouncementPolicy\nmetadata: {name: a}\nspec: {nodeSelector: {matchLabels: {'!': a}}}", "CiliumL2AnnouncementPolicy a: spec.nodeSelector: Invalid value"},
	} {
		set := NewSet(documents(t, c.docs))
		got := problemsOf(Plan{Problems: set.Problems})
		if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s\ngot  %v\nwant %s", c.docs, got, c.want)
		}
		if set.Announces(KindL2Advertisement) || set.Announces(KindCiliumL2Announcement) {
			t.Errorf("%s is used for announcements", c.docs)
		}
	}
}

func first1(rest string) string { return "IPAddressPool metallb-system/a: " + rest }

func firstC(rest string) string { return "CiliumLoadBalancerIPPool a: " + rest }

// TestAnnouncements: what an announcer goes by.
func TestAnnouncements(t *testing.T) {
	set := NewSet(documents(t, metallb("first", "192.0.2.0/24")+`apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2, namespace: metallb-system}
spec: {ipAddressPools: [first], interfaces: [eth0], nodeSelectors: [{matchLabels: {edge: "yes"}}], preferredNodeSelectors: [{weight: 9, preference: {matchLabels: {a: b}}}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: policy}
spec: {loadBalancerIPs: true, interfaces: ["^eth[0-9]+"], serviceSelector: {matchLabels: {colour: blue}}}`))
	if len(set.Problems) > 0 {
		t.Fatalf("%+v", set)
	}
	blue := service("blue", labelled("colour", "blue"))
	adverts := func(s Service, addr string) (kinds []string) {
		for _, a := range set.Adverts(s.Service, Held{Addr: netip.MustParseAddr(addr)}) {
			kinds = append(kinds, a.Kind)
		}
		return kinds
	}
	for _, c := range []struct {
		of   Service
		addr string
		want []string
	}{
		{service("other"), "192.0.2.1", []string{KindL2Advertisement}},
		{service("other"), "198.51.100.1", nil},
		{blue, "192.0.2.1", []string{KindCiliumL2Announcement, KindL2Advertisement}},
		{blue, "198.51.100.1", []string{KindCiliumL2Announcement}},
	} {
		if got := adverts(c.of, c.addr); !slices.Equal(got, c.want) {
			t.Errorf("%s of %s is announced by %v, want %v", c.addr, c.of.Name, got, c.want)
		}
	}
	l2 := set.Adverts(blue.Service, Held{Addr: netip.MustParseAddr("192.0.2.1")})[1]
	edge := labels.Set{"edge": "yes", "a": "b"}
	if !l2.SelectsNode(edge) || l2.SelectsNode(labels.Set{"a": "b"}) || l2.Weight(edge) != 9 || l2.Weight(nil) != 0 {
		t.Errorf("of nodes: %+v", l2)
	}
	if !l2.HasDevice("eth0") || l2.HasDevice("eth01") || !l2.ListsDevices() {
		t.Errorf("of devices: %+v", l2)
	}
}

func TestRecord(t *testing.T) {
	held := []Held{
		{netip.MustParseAddr("192.0.2.1"), Ref{KindIPAddressPool, "metallb-system", "first"}},
		{netip.MustParseAddr("2001:db8::1"), Ref{Kind: KindCiliumPool, Name: "second"}},
	}
	const want = "192.0.2.1 from IPAddressPool metallb-system/first, 2001:db8::1 from CiliumLoadBalancerIPPool second"
	if got := Record(append(held, Held{Addr: netip.MustParseAddr("192.0.2.9")})); got != want {
		t.Errorf("record %q", got)
	}
	got := ParseRecord(want + ", nonsense, 192.0.2.3 from nowhere")
	if len(got) != 2 || got[held[0].Addr] != held[0].From || got[held[1].Addr] != held[1].From {
		t.Errorf("read %v", got)
	}
}

// TestFromStatus: what counts as an address of the Service, and who is taken to have given it.
func TestFromStatus(t *testing.T) {
	proxy := v1.LoadBalancerIPModeProxy
	s := service("a", annotated("metallb.io/ip-allocated-from-pool", "old")).Service
	s.Status.Conditions = append(s.Status.Conditions, conditionFor("192.0.2.1 from "+first))
	s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.2"}}
	got := FromStatus(s)
	want := []Held{{netip.MustParseAddr("192.0.2.1"), Ref{KindIPAddressPool, "metallb-system", "first"}}, {netip.MustParseAddr("192.0.2.2"), Ref{Kind: KindIPAddressPool, Name: "old"}}}
	if got.Foreign || !slices.Equal(got.Has, want) {
		t.Errorf("%+v", got)
	}
	for _, foreign := range []v1.LoadBalancerIngress{{Hostname: "lb.example"}, {IP: "192.0.2.3", IPMode: &proxy}} {
		s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{foreign}
		if !FromStatus(s).Foreign {
			t.Errorf("%+v is ours", foreign)
		}
	}
}
