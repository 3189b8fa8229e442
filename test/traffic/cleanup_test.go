// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestCleanup, of contract 36: `waggle cleanup` leaves the node as it was before the agent's
// first start, and only when no agent runs.
//
// Contract: 36.
func TestCleanup(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { cleanup(t, m) })
	}
}

func cleanup(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	c := s.addClients(t)
	agent := s.agents[0]
	before := traces(t, agent)
	s.startAgents(t)
	s.awaitPods(t, web, pods...)
	checkServed(t, web, s.ways(c))
	ids := kernelObjects(t, agent)
	if during := traces(t, agent); slices.Equal(before, during) {
		t.Errorf("a running agent leaves no traces that the test would see: %v", during)
	}

	checkOnlyOne(t, agent)
	check(t, agent.Stop())
	checkServed(t, web, s.ways(c))
	out, err := agent.CLI("cleanup")
	check(t, err)
	if after := traces(t, agent); !slices.Equal(before, after) {
		t.Errorf("traces before and after:\n%s\n\n%s\ncleanup said:\n%s",
			strings.Join(before, "\n"), strings.Join(after, "\n"), out)
	}
	for _, what := range []string{"ports 10000-29999", "link cgroup-connect4", "directory " + agent.PinDir + "\n", "removed " + agent.RunDir + "\n"} {
		if !strings.Contains(out, what) {
			t.Errorf("cleanup does not name %q:\n%s", what, out)
		}
	}
	ids.awaitGone(t)
	checkPlainTraffic(t, s, c, web, pods)
	if again, err := agent.CLI("cleanup"); err != nil || again != "" {
		t.Errorf("cleanup once more: %v, %q", err, again)
	}
}

// checkOnlyOne expects that neither a cleanup nor a second agent runs beside an agent.
func checkOnlyOne(t *testing.T, a *cluster.Agent) {
	t.Helper()
	refused, err := a.Run("cleanup", "--pin-dir", a.PinDir, "--run-dir", a.RunDir)
	check(t, err)
	pid := fmt.Sprintf("pid %d", a.Pid())
	if line := refused.Refusal(); !strings.Contains(line, pid) || !strings.Contains(line, "stop it first") {
		t.Errorf("cleanup beside an agent: %s", refused)
	}
	twin, err := a.RunTwin()
	check(t, err)
	if line := twin.Refusal(); !strings.Contains(line, pid) || !strings.Contains(line, a.PinDir) {
		t.Errorf("a second agent: %s", twin)
	}
}

// checkPlainTraffic expects that pods still reach each other, and that services are gone.
func checkPlainTraffic(t *testing.T, s *setup, c *clients, svc service, pods []*topo.Pod) {
	t.Helper()
	for _, from := range []*topo.Client{c.inside, c.outside} {
		for _, pod := range pods {
			for _, v6 := range bothFamilies {
				if r := from.Get(topo.Request{To: atPod(pod, v6)}); r.Pod != pod.Name {
					t.Errorf("plain traffic to %s: %s", pod.Name, r)
				}
			}
		}
	}
	r := c.laptop.Get(topo.Request{To: svc.nodePort(s.Nodes[0].IP4, http)})
	if r.Errno != "ECONNREFUSED" {
		t.Errorf("a node port after the cleanup: %s", r)
	}
}

// traces lists what waggle has left on a node, in all the places where it leaves something.
func traces(t *testing.T, a *cluster.Agent) []string {
	t.Helper()
	var out []string
	note := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	check(t, a.Node.Do(func() error {
		reserved, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
		note("reserved ports: %s", strings.TrimSpace(string(reserved)))
		if err != nil {
			return err
		}
		return deviceTraces(note)
	}))
	for _, dir := range []string{a.PinDir, a.RunDir} {
		_, err := os.Stat(dir)
		note("%s exists: %t", dir, err == nil)
	}
	cgroupTraces(t, a.Node.Cgroup, note)
	return out
}

func deviceTraces(note func(string, ...any)) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, dev := range links {
		attrs := dev.Attrs()
		note("%s: XDP %t", attrs.Name, attrs.Xdp != nil && attrs.Xdp.Attached)
		qdiscs, err := netlink.QdiscList(dev)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			note("%s: qdisc %s", attrs.Name, q.Type())
		}
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: attrs.Index, Attach: attach})
			if errors.Is(err, unix.EINVAL) {
				continue // the kernel has no TCX: the qdisc shows it
			}
			if err != nil {
				return fmt.Errorf("%s, %v: %w", attrs.Name, attach, err)
			}
			note("%s: %v: %d programs", attrs.Name, attach, len(result.Programs))
		}
	}
	return nil
}

func cgroupTraces(t *testing.T, path string, note func(string, ...any)) {
	t.Helper()
	dir, err := os.Open(path)
	check(t, err)
	defer dir.Close()
	for _, attach := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		check(t, err)
		note("cgroup: %v: %d programs", attach, len(result.Programs))
	}
}

// objects are the kernel's, by their ids: other tests have objects with the same names.
type objects struct {
	links    []link.ID
	programs []ebpf.ProgramID
	maps     []ebpf.MapID
}

// kernelObjects lists what the agent has made in the kernel, including maps that only programs
// refer to.
func kernelObjects(t *testing.T, a *cluster.Agent) objects {
	t.Helper()
	var out objects
	for _, l := range linksOf(t, a) {
		out.links = append(out.links, l.LinkID)
	}
	pins, err := filepath.Glob(filepath.Join(a.PinDir, "programs", "*"))
	check(t, err)
	for _, pin := range pins {
		program, err := ebpf.LoadPinnedProgram(pin, nil)
		check(t, err)
		info, err := program.Info()
		check(t, err)
		check(t, program.Close())
		id, _ := info.ID()
		ids, _ := info.MapIDs()
		out.programs = append(out.programs, id)
		out.maps = append(out.maps, ids...)
	}
	if len(out.links) == 0 || len(out.programs) == 0 || len(out.maps) == 0 {
		t.Fatalf("the agent has made nothing: %+v", out)
	}
	return out
}

// awaitGone waits for the kernel, which frees its objects some time after the last reference.
func (o objects) awaitGone(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(topo.Patient(10 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = o.left(); len(left) == 0 {
			return
		}
	}
	t.Errorf("still in the kernel: %v", left)
}

func (o objects) left() []string {
	var out []string
	still := func(kind string, id any, err error) {
		if !errors.Is(err, os.ErrNotExist) {
			out = append(out, fmt.Sprintf("%s %d (%v)", kind, id, err))
		}
	}
	for _, id := range o.links {
		l, err := link.NewFromID(id)
		if err == nil {
			l.Close()
		}
		still("link", id, err)
	}
	for _, id := range o.programs {
		p, err := ebpf.NewProgramFromID(id)
		if err == nil {
			p.Close()
		}
		still("program", id, err)
	}
	for _, id := range o.maps {
		m, err := ebpf.NewMapFromID(id)
		if err == nil {
			m.Close()
		}
		still("map", id, err)
	}
	return out
}
