// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// crashing is an agent that dies at a write of the test's choice, and a service that moves from two
// pods to two others and back.
type crashing struct {
	*setup
	failpoint string // the file that arms it
	laptop    *topo.Client
	inside    *topo.Client
	pods      map[string][]netip.Addr // by app
}

// TestCrashAtEachWrite: the agent is killed before each single write of a change of a service.
// While it is dead clients reach the old endpoints or the new ones, and always some endpoint. The
// next agent finishes the change.
func TestCrashAtEachWrite(t *testing.T) {
	step := 8
	if *full {
		step = 1
	}
	c := newCrashing(t)
	stream := c.open(t, c.laptop, service{"web", 1}, false)
	load := topo.StartLoad(8, 10*time.Millisecond, c.request)
	apps := []string{"blue", "green"}
	died := 0
	for write := 1; ; write += step {
		to := apps[(died+1)%2]
		if !c.dieDuring(t, write, to) {
			break
		}
		died++
		c.meetsEither(t, write)
		check(t, c.agent.Start())
		c.awaitApp(t, to)
	}
	report := load.Stop()
	t.Logf("killed %d times; clients meanwhile: %s", died, report)
	if report.Failed > 0 || died == 0 {
		t.Errorf("killed %d times; clients: %s", died, report)
	}
	exchange(t, stream)
}

func newCrashing(t *testing.T) *crashing {
	dir := t.TempDir()
	dying, err := cluster.Build(dir, "failpoints")
	check(t, err)
	c := &crashing{setup: newSetup(t, true), failpoint: filepath.Join(dir, "failpoint"), pods: map[string][]netip.Addr{}}
	t.Setenv("WAGGLE_FAILPOINT", c.failpoint)
	c.useAgent(t, cluster.AgentOptions{Binary: dying, Args: []string{"--xdp=always"}})
	for i, app := range []string{"blue", "green"} {
		for j, node := range []*topo.Node{c.Nodes[i], c.Nodes[1-i]} {
			pod := c.addPod(t, node, fmt.Sprint(app, j), app)
			c.pods[app] = append(c.pods[app], pod.IP4, pod.IP6)
		}
	}
	inside, err := c.node.AddPod("inside", topo.PodOptions{})
	check(t, err)
	c.laptop, c.inside = client(t, c.Laptop), client(t, inside.Host)
	c.lead(t, "blue")
	c.start(t, portsOfService)
	return c
}

// lead makes the service select other pods.
func (c *crashing) lead(t *testing.T, app string) {
	t.Helper()
	yaml := strings.Replace(service{"web", 1}.yaml(), "selector: {app: web}", "selector: {app: "+app+"}", 1)
	check(t, c.manifests.Write("web.yaml", yaml))
}

// request sends a request by one of eight ways.
func (c *crashing) request(way int) topo.Reply {
	web, v6 := service{"web", 1}, way%2 == 1
	switch way / 2 {
	case 0:
		return c.laptop.Get(topo.Request{To: c.nodePort(web, httpDigit, v6)})
	case 1:
		return c.laptop.UDPConnected(topo.Request{To: c.nodePort(web, dnsDigit, v6)})
	case 2:
		return c.inside.Get(topo.Request{To: web.clusterIP(80, v6)})
	}
	return c.inside.UDPUnconnected(topo.Request{To: web.clusterIP(53, v6)})
}

// dieDuring changes the service with the agent set to die at a write, and reports whether it did.
// It doesn't if the change takes fewer writes.
func (c *crashing) dieDuring(t *testing.T, write int, app string) bool {
	t.Helper()
	check(t, os.WriteFile(c.failpoint+".tmp", fmt.Append(nil, write), 0o600))
	check(t, os.Rename(c.failpoint+".tmp", c.failpoint))
	c.lead(t, app)
	dead := false
	awaitTrue(t, "death or success", func() bool {
		dead = !loader.Held(c.agent.PinDir)
		return dead || c.leadsTo(t, app)
	})
	if err := os.Remove(c.failpoint); err == nil {
		dead = false
	} else if !dead { // it dies at a later removal
		awaitTrue(t, "death", func() bool { return !loader.Held(c.agent.PinDir) })
		dead = true
	}
	c.agent.Kill()
	return dead
}

// meetsEither sends requests by all ways while no agent runs.
func (c *crashing) meetsEither(t *testing.T, write int) {
	t.Helper()
	for way := range 8 {
		for range 4 {
			if reply := c.request(way); !reply.OK() {
				t.Errorf("dead before write %d: %s", write, reply)
			}
		}
	}
}

func (c *crashing) awaitApp(t *testing.T, app string) {
	t.Helper()
	awaitTrue(t, "the endpoints "+app, func() bool { return c.leadsTo(t, app) })
}

// leadsTo reports whether all frontends lead to the pods of an app, and to no others.
func (c *crashing) leadsTo(t *testing.T, app string) bool {
	t.Helper()
	contents, err := c.agent.Contents()
	check(t, err)
	return allLead(contents.Endpoints("web"), c.pods[app])
}

func allLead(endpoints map[maps.Frontend][]netip.AddrPort, pods []netip.Addr) bool {
	for _, backends := range endpoints {
		for _, b := range backends {
			if !slices.Contains(pods, b.Addr()) {
				return false
			}
		}
		if len(backends) == 0 {
			return false
		}
	}
	return len(endpoints) > 0
}
