// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"testing"
)

// BenchmarkPlan is a plan for a thousand Services that have their addresses, and for one that has none.
func BenchmarkPlan(b *testing.B) {
	set := NewSet(documents(b, metallb("a", "10.0.0.0/20, '2001:db8::/64'")))
	var services []Service
	for i := range 1000 {
		services = append(services, service(fmt.Sprint("s", i), families(prefer, v4, v6), created(i)))
	}
	in := Input{Set: set, Services: services}
	carryOut(services, Make(in))
	services = append(services, service("new"))
	in.Services = services
	for b.Loop() {
		if p := Make(in); len(p.Changes) != 1 {
			b.Fatal(len(p.Changes))
		}
	}
}
