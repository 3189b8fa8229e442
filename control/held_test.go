// SPDX-License-Identifier: Apache-2.0

package control

import (
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
)

// TestHeldServices: the agent reports Services that the source holds back.
func TestHeldServices(t *testing.T) {
	src := &testSource{}
	f := newAgentFixture(t, src, nil).start()
	address := f.cfg.Serve.Metrics
	if body, _ := f.awaitStatus(address, "/readyz", 503); body != notDelivered+"\n" {
		t.Errorf("before the first sync: %q", body)
	}
	f.begin()
	if body, _ := f.awaitStatus(address, "/readyz", 200); body != "ok\n" {
		t.Errorf("after it: %q", body)
	}
	src.hold("default/a", "default/b")
	if body, _ := f.awaitStatus(address, "/readyz", 503); body != "2 Services are held (--deletion-brake): default/a, default/b\n" {
		t.Errorf("with held Services: %q", body)
	}
	if body, _ := f.awaitStatus(address, "/metrics", 200); !strings.Contains(body, "\nwaggle_held_deletions 2\n") {
		t.Error("the metrics don't count the held Services")
	}
	f.poke()
	await.Until(t, func() (string, bool) {
		s, err := status.Read(f.cfg.RunDir)
		if err != nil {
			return err.Error(), false
		}
		return "the status file has not what the source says", len(s.Held) == 2 && strings.Contains(strings.Join(s.Notices, "\n"), "a notice of the source")
	})
	// Load balancers send to the node all the same.
	f.awaitStatus(f.cfg.Serve.Healthz, "/healthz", 200)
}
