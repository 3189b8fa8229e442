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

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestDeviceReplaced: an external device that goes and comes back is served again, and connections
// over it go on.
func TestDeviceReplaced(t *testing.T) {
	s, laptop := newExhausted(t)
	streams := []*topo.Stream{s.open(t, laptop, local, false), s.open(t, laptop, remote, true)}
	before, err := s.node.Link("eth0")
	check(t, err)
	check(t, s.node.Replug())
	s.awaitStatus(t, "the new device", func(st *status.Status) bool {
		return slices.ContainsFunc(st.Devices, func(d status.Device) bool {
			return d.Name == "eth0" && d.Ifindex != before.Attrs().Index && d.Role == status.RoleExternal && d.XDP == "native"
		})
	})
	s.stillServed(t, laptop, local, remote)
	exchange(t, streams...)
}

// TestNodeAddressChanged: node ports and SNAT move to the node's new address.
func TestNodeAddressChanged(t *testing.T) {
	s, laptop := newExhausted(t)
	stream := s.open(t, laptop, remote, true) // of the family whose address stays
	to := netip.MustParsePrefix("192.168.1.77/24")
	check(t, s.node.Sysctl("net.ipv4.conf.all.promote_secondaries", "1")) // otherwise it would be removed with the first
	check(t, s.node.AddAddr("eth0", to))
	check(t, s.manifests.Write("node-"+s.node.Name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: %s}
status:
  addresses:
  - {type: InternalIP, address: %s}
  - {type: InternalIP, address: "%s"}
`, s.node.Name, to.Addr(), s.node.IP6)))
	s.awaitStatus(t, "the new address", func(st *status.Status) bool {
		return slices.ContainsFunc(st.Devices, func(d status.Device) bool { return d.Name == "eth0" && d.Addr4 == to.Addr().String() })
	})
	check(t, s.node.DelAddr("eth0", netip.PrefixFrom(s.node.IP4, 24)))
	s.node.IP4 = to.Addr()
	awaitTrue(t, "an answer at the new address", func() bool {
		return laptop.Get(topo.Request{To: s.nodePort(remote, httpDigit, false), Timeout: short}).Remote.Addr() == to.Addr()
	})
	s.stillServed(t, laptop, local, remote)
	exchange(t, stream)
}

// TestUnmounted: when a bpf file system is unmounted under the agent, nothing is lost while the
// agent runs, and it still follows changes. The next agent starts on a new one.
func TestUnmounted(t *testing.T) {
	s := newSetup(t, true)
	mount := filepath.Join(t.TempDir(), "bpf")
	check(t, os.Mkdir(mount, 0o700))
	check(t, unix.Mount("bpf", mount, "bpf", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	s.useAgent(t, cluster.AgentOptions{Binary: binary, PinDir: filepath.Join(mount, "waggle"), Args: []string{"--xdp=always"}})
	s.addService(t, local)
	s.addPod(t, s.Nodes[0], "local", "local")
	s.start(t, portsOfService)
	laptop := client(t, s.Laptop)
	stream := s.open(t, laptop, local, false)

	check(t, unix.Unmount(mount, unix.MNT_DETACH))
	s.addService(t, remote)
	s.addPod(t, s.Nodes[1], "remote", "remote")
	s.awaitStatus(t, "the second service", func(st *status.Status) bool { return st.Proxy.Services == 2*portsOfService })
	awaitTrue(t, "the second service's endpoint", func() bool {
		return laptop.Get(topo.Request{To: s.nodePort(remote, httpDigit, true), Timeout: short}).OK()
	})
	s.stillServed(t, laptop, local, remote)
	exchange(t, stream)

	s.agent.Kill()
	check(t, unix.Mount("bpf", mount, "bpf", 0, ""))
	s.start(t, 2*portsOfService)
	s.stillServed(t, laptop, local, remote)
}

// TestDiskFull: without room for the file of allocations services still get addresses. A problem
// says that they may not keep them, until there is room.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	check(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { check(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	filler := filepath.Join(disk, "filler")
	s := newSetup(t, true, "--allocations", filepath.Join(disk, "allocations.json"))
	check(t, os.WriteFile(filepath.Join(disk, "allocations.json.lock"), nil, 0o600))
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	s.addPod(t, s.Nodes[0], "local", "local")
	check(t, s.manifests.Write("auto.yaml", strings.ReplaceAll(`apiVersion: v1
kind: Service
metadata: {name: auto}
spec: {selector: {app: local}, type: NodePort, ports: [{port: 80, targetPort: 8080}]}
`, "\t", "  ")))
	check(t, s.agent.Start())
	reported := func(st *status.Status) bool {
		return strings.Contains(fmt.Sprint(st.Problems), "no space left on device")
	}
	s.awaitStatus(t, "the full disk", reported)
	contents, err := s.agent.Contents()
	check(t, err)
	laptop, served := client(t, s.Laptop), 0
	for f := range contents.Endpoints("auto") {
		if f.Addr.IsUnspecified() {
			reply := laptop.Get(topo.Request{To: netip.AddrPortFrom(s.node.IP4, f.Port)})
			check(t, reply.Error())
			served++
		}
	}
	if served != 1 {
		t.Errorf("%d node ports, want 1: %v", served, contents.Frontends)
	}

	check(t, os.Remove(filler))
	s.awaitStatus(t, "room on the disk", func(st *status.Status) bool { return !reported(st) })
	if raw, err := os.ReadFile(filepath.Join(disk, "allocations.json")); err != nil || !strings.Contains(string(raw), "default/auto") {
		t.Errorf("the allocations are not kept: %s, %v", raw, err)
	}
}

// TestClockJumps: an agent takes over even if its clocks are ten days ahead of the last one's, or
// behind. (The datapath counts in jiffies, which can't be set, and no decision of the agent uses
// the wall clock.)
func TestClockJumps(t *testing.T) {
	s, laptop := newExhausted(t)
	streams := []*topo.Stream{s.open(t, laptop, local, false), s.open(t, laptop, remote, true)}
	now := s.agent
	later := filepath.Join(t.TempDir(), "waggle")
	check(t, os.WriteFile(later, []byte("#!/bin/sh\nexec unshare --time --monotonic 864000 --boottime 864000 "+binary+" \"$@\"\n"), 0o700))
	now.Kill()
	s.useAgent(t, cluster.AgentOptions{Binary: later, Args: []string{"--xdp=always"}})
	s.start(t, 2*portsOfService)
	s.stillServed(t, laptop, local, remote)
	exchange(t, streams...)
	s.agent.Kill()
	s.agent = now
	s.start(t, 2*portsOfService)
	s.stillServed(t, laptop, local, remote)
	exchange(t, streams...)
	s.agent.Kill() // two processes use its directory
}
