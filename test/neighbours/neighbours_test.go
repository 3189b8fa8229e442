// SPDX-License-Identifier: Apache-2.0

package neighbours

import "testing"

// TestNeighbours sends the same traffic through kube-proxy and through waggle in each environment. A
// cell that works with kube-proxy must work with waggle, unless an exception covers it; and an
// exception must be needed. What waggle promises beyond kube-proxy must work as well. What doesn't work
// with kube-proxy is listed too: an environment in which nothing works would prove nothing. Rows 42 and
// 45 to 52 of the contract are about these environments.
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
				if v.oracle != "" && v.shortcoming == nil {
					t.Errorf("%s: kube-proxy itself: %s", v.cell.kind(), v.oracle)
				}
			}
		})
	}
	needed := map[*clause]bool{}
	for _, v := range r.verdicts {
		needed[v.exception] = needed[v.exception] || v.oracle == "" && v.waggle != ""
		needed[v.shortcoming] = needed[v.shortcoming] || v.oracle != ""
	}
	for c, is := range needed {
		if c != nil && !is {
			t.Errorf("%s works after all, but is said not to: %s", c.cells, c.says)
		}
	}
}
