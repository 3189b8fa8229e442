// SPDX-License-Identifier: Apache-2.0

package neighbours

import "testing"

// TestNeighbours sends the same traffic through kube-proxy and through waggle in each environment. A
// cell that works with kube-proxy must work with waggle, unless an exception covers it; and an
// exception must be needed. What waggle promises beyond kube-proxy must work as well. Rows 42 and 46 to 52 of the contract are about these environments.
func TestNeighbours(t *testing.T) {
	var reports []report
	for _, e := range chosen(t) {
		t.Run(e.name, func(t *testing.T) {
			r := measure(t, e)
			reports = append(reports, r)
			judge(t, r)
		})
	}
	if len(reports) > 0 {
		t.Log("\n" + table(reports))
	}
}

// measure tries all cells with each proxy, one after the other on the same nodes.
func measure(t *testing.T, e environment) report {
	t.Helper()
	s := newSetup(t, e)
	stop := s.startKubeProxies(t)
	oracle := s.tryAll()
	stop()
	stop = s.startWaggle(t)
	waggle := s.tryAll()
	stop()
	return compare(e, oracle, waggle)
}

func judge(t *testing.T, r report) {
	t.Helper()
	names, groups := r.byPath()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for _, v := range groups[name] {
				if v.fails() {
					t.Errorf("%s: %s", v.cell.kind(), v.waggle)
				}
				if r.environment.name == "plain" && v.oracle != "" {
					t.Errorf("%s: kube-proxy itself, with nothing in its way: %s", v.cell.kind(), v.oracle)
				}
			}
		})
	}
	for i := range exceptions {
		if e := &exceptions[i]; e.environment == r.environment.name && !needed(e, r) {
			t.Errorf("the exception for %s is not needed: waggle does all that kube-proxy does", e.cells)
		}
	}
}

// needed tells whether waggle does less than kube-proxy in a cell that an exception covers.
func needed(e *clause, r report) bool {
	for _, v := range r.verdicts {
		if v.exception == e && v.oracle == "" && v.waggle != "" {
			return true
		}
	}
	return false
}
