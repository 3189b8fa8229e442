// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
	"github.com/waggle-lb/waggle/test/await"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is what servers report, with real maps, and the rest made up. They listen on free ports of
// 127.0.0.1.
type fixture struct {
	t      *testing.T
	cfg    Config
	health *Health
	facts  Facts

	mu       sync.Mutex
	warnings map[string]error
}

func newFixture(t *testing.T, edit func(*Config)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, cfg: Config{Healthz: servetest.FreeAddress(t), Metrics: servetest.FreeAddress(t)},
		health: NewHealth(time.Hour), warnings: map[string]error{},
		facts: Facts{
			Version: "v0", Node: "node-a", Maps: mapstest.New(t, map[string]uint32{"services4": 100}), Source: blindSource{},
			Proxy: func() status.Proxy { return status.Proxy{Synced: true, LastSync: time.Now()} },
			Size: func() Size {
				return Size{
					Synced: true, Failures: 1, Services: map[maps.Family]int{maps.IPv4: 2, maps.IPv6: 1},
					Frontends: map[maps.Family]int{maps.IPv4: 3, maps.IPv6: 1}, Backends: 2,
				}
			},
			Devices: func() []status.Device {
				return []status.Device{
					{Name: "eth0", Role: status.RoleExternal, XDP: status.XDPNative, Express: true},
					{Name: "eth1", Role: status.RoleOverlay, XDP: "not for this role"},
				}
			},
			Flows: func() status.FlowCensus {
				return status.FlowCensus{IPv4: status.FamilyCensus{Confirmed: 2, Unconfirmed: 1}, IPv6: status.FamilyCensus{Confirmed: 2}, Expired: 7}
			},
			Names: func() *status.Names {
				return &status.Names{Queries: map[string]uint64{"udp": 5, "tcp": 1}, Answers: map[string]uint64{"NXDOMAIN": 4}, Forwarded: 3}
			},
			Repairs:   func() map[string]int { return map[string]int{"services4": 1, "node_addrs6": 0} },
			Findings:  func() map[string]map[string]int { return map[string]map[string]int{"notice": {"hooks": 2}} },
			Announced: func() Announced { return Announced{Announces: true, Held: 3, Moves: 5, Members: 2} },
		},
	}
	if edit != nil {
		edit(&f.cfg)
	}
	return f
}

// blindSource has one problem, and has seen nothing for a minute.
type blindSource struct{}

func (blindSource) Run(context.Context, source.Sink) error { return nil }

func (blindSource) Problems() []status.Problem { return []status.Problem{{Message: "bad"}} }

func (blindSource) Blind() (time.Time, string) { return time.Now().Add(-time.Minute), "" }

// start serves until the test ends.
func (f *fixture) start() *fixture {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	must(f.t, Start(ctx, f.cfg, f.health, f.facts, f.warn))
	return f
}

func (f *fixture) warn(about string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warnings[about] = err
}

// awaitWarning waits for a warning that holds a text, or until there is none.
func (f *fixture) awaitWarning(text string, there bool) {
	f.t.Helper()
	await.Until(f.t, func() (string, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var all []string
		for about, err := range f.warnings {
			if err != nil {
				all = append(all, fmt.Sprintf("%s: %v", about, err))
			}
		}
		found := slices.ContainsFunc(all, func(w string) bool { return strings.Contains(w, text) })
		return fmt.Sprintf("warnings %q; want %q there: %v", all, text, there), found == there
	})
}

// onLoopback has health checks answered on 127.0.0.1.
type onLoopback struct{}

// CIDRs is part of NodePortAddresses.
func (onLoopback) CIDRs(family maps.Family, _ []netip.Addr) ([]string, bool) {
	return []string{"127.0.0.1/32"}, family == maps.IPv4
}
