// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

// TestOracle leads the same flows through kube-proxy and through waggle, in the
// same network with the same objects. They must agree on where each flow ends,
// on the endpoints that it reaches, and on the client address that these see.
//
// Contract: 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27.
func TestOracle(t *testing.T) {
	s := newSetup(t)
	services := oracleServices()
	pods := s.addOracleObjects(t, services)
	groups := flowsOf(services, s.sources(t, pods))

	stop := s.startKubeProxies(t, services[0].lbIP(false).String(), services[0].lbIP(true).String())
	oracle := s.measureAll(groups)
	stop()

	stop = s.startWaggle(t)
	waggle := s.measureAll(groups)
	stop()

	table := compare(groups, oracle, waggle)
	t.Log("\n" + table.String())
	rows := table.byRow()
	rows[affinity] = append(rows[affinity], unfaithful(groups, waggle)...)
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		t.Run(fmt.Sprintf("row %d", row), func(t *testing.T) {
			for _, line := range rows[row] {
				t.Error(line)
			}
		})
	}
	for _, line := range unfaithful(groups, oracle) {
		t.Error("kube-proxy itself: " + line)
	}
}

const affinity = 27 // the row
