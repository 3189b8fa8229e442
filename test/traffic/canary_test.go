// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// breakage is a change to the datapath of an agent that repairs nothing meanwhile, and what /healthz then reports.
type breakage struct {
	name  string
	do    func(t *testing.T, pins string)
	wants string
}

var breakages = []breakage{
	{"XDP detached", detached("xdp-eth0-*"), "xdp of eth0"},
	{"ingress detached", detached("tcx-ingress-eth0-*"), "tc-ingress of eth0"},
	{"egress detached", detached("tcx-egress-eth0-*"), "tc-egress of eth0"},
	{"pod detached", detached("tcx-ingress-veth-web-*"), "tc-ingress of veth-web"},
	{"sockets detached", detached("*connect4*"), "connect4"},
	{"frontends gone", emptied("services4"), "is taken for no frontend"},
	{"endpoints gone", emptied("backends"), "leads to no backend"},
	{"a map frozen", frozen("services6"), "the map services6 can't be written"}, // the last: no agent can repair it
}

func detached(pattern string) func(*testing.T, string) {
	return func(t *testing.T, pins string) { loadertest.DetachLinks(t, pins, pattern) }
}

func pinnedMap(t *testing.T, pins, name string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "maps", name), nil)
	check(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// emptied removes all elements of a map, or sets those of an array to zero.
func emptied(name string) func(*testing.T, string) {
	return func(t *testing.T, pins string) {
		t.Helper()
		m := pinnedMap(t, pins, name)
		if m.Type() == ebpf.Array {
			for i := range uint32(64) {
				check(t, m.Put(i, make([]byte, m.ValueSize())))
			}
			return
		}
		var keys [][]byte
		var key, value []byte
		for all := m.Iterate(); all.Next(&key, &value); {
			keys = append(keys, key)
		}
		for _, key := range keys {
			check(t, m.Delete(key))
		}
	}
}

func frozen(name string) func(*testing.T, string) {
	return func(t *testing.T, pins string) { check(t, pinnedMap(t, pins, name).Freeze()) }
}

// TestHealthAsksDatapath: /healthz and /readyz report what is wrong with the datapath, hook by hook and map by map,
// and that it works again. /livez does not: a restart would not help.
func TestHealthAsksDatapath(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[0])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 0, "web", "app: web")
	flags := []string{"--sync-period=1h", "--probe-bind-address=127.0.0.1:10246"}
	s.startAgents(t, flags...)
	s.awaitPods(t, web, pod)
	agent := s.agents[0]
	staysHealthy := func(when string) {
		for range 5 {
			time.Sleep(time.Second)
			if code, body := probeNode(t, agent.Node, 10256, "/healthz"); code != nethttp.StatusOK {
				t.Fatalf("%s /healthz answers %d %s", when, code, body)
			}
		}
	}
	staysHealthy("before anything is broken")
	for _, device := range []string{"eth0", "veth-web"} { // a frame to the MAC before would be another host's
		check(t, agent.Node.Command("ip", "link", "set", device, "address", "02:00:5e:10:00:01").Run())
	}
	staysHealthy("with other MACs")
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			b.do(t, agent.PinDir)
			awaitProbe(t, agent.Node, 10256, "/healthz", nethttp.StatusServiceUnavailable, b.wants)
			awaitProbe(t, agent.Node, 10246, "/readyz", nethttp.StatusServiceUnavailable, b.wants)
			awaitProbe(t, agent.Node, 10246, "/livez", nethttp.StatusOK, "ok")
			check(t, agent.Await("the warning", func(s *status.Status) bool {
				return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, b.wants) })
			}))
			if b.name != "a map frozen" {
				check(t, agent.Stop())
				check(t, agent.Start(flags...))
				awaitProbe(t, agent.Node, 10256, "/healthz", nethttp.StatusOK, "")
			}
		})
	}
}

func awaitProbe(t *testing.T, node *topo.Node, port int, path string, want int, text string) {
	t.Helper()
	await.Until(t, func() (string, bool) {
		code, body := probeNode(t, node, port, path)
		return fmt.Sprintf("%s answers %d %s; want %d with %q", path, code, body, want, text), code == want && strings.Contains(body, text)
	})
}

// probeNode sends an HTTP request from a node to itself.
func probeNode(t *testing.T, node *topo.Node, port int, path string) (code int, body string) {
	t.Helper()
	check(t, node.Do(func() error {
		c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
			return err
		}
		answer, err := nethttp.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		all, err := io.ReadAll(answer.Body)
		code, body = answer.StatusCode, string(all)
		return err
	}))
	return code, body
}
