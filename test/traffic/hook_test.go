// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// attachBouncer attaches another program, which accepts every packet and ends the chain
// (TC_ACT_OK), before all others on a node's device.
func attachBouncer(t *testing.T, node *topo.Node, device string) ebpf.ProgramID {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bouncer", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	check(t, err)
	t.Cleanup(func() { check(t, program.Close()) })
	info, err := program.Info()
	check(t, err)
	id, _ := info.ID()
	eth, err := node.Link(device)
	check(t, err)
	err = node.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: eth.Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
		if err == nil {
			t.Cleanup(func() { check(t, l.Close()) })
		}
		return err
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip("this kernel has no TCX (Linux 6.6)")
	}
	check(t, err)
	return id
}

// TestOtherProgramOnHook, of contract 56: waggle's program goes before an earlier one that ends the
// chain. A program that goes before waggle's later is reported, in the status, the metrics and the
// log. The next agent goes before that one too.
func TestOtherProgramOnHook(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	c := s.addClients(t)
	node, agent := s.Nodes[0], s.agents[0]
	attachBouncer(t, node, "eth0")
	s.startAgents(t)
	s.awaitPods(t, web, pods...)
	nodePorts := s.ways(c)[:2]
	checkServed(t, web, nodePorts)
	st, err := status.Read(agent.RunDir)
	check(t, err)
	if found := aboutHooks(st.Warnings); len(found) > 0 {
		t.Errorf("a warning about a program that runs after ours: %q", found)
	}

	check(t, agent.Stop())
	check(t, agent.Start("--sync-period=1s"))
	id := attachBouncer(t, node, "eth0")
	for _, v6 := range bothFamilies {
		at := addrOf(node.Host, v6)
		find(t, "laptop", c.laptop, web.nodePort(at, http), web.nodePort(at, dns), refused)
	}
	want := fmt.Sprintf(`device eth0, tc-ingress: the program "bouncer" (id %d) runs before waggle's`, id)
	check(t, agent.Await("a warning of the program", func(s *status.Status) bool {
		found := aboutHooks(s.Warnings)
		return len(found) == 1 && strings.HasPrefix(found[0], want)
	}))
	expectTold(t, s, "Problems", want, `waggle_findings{about="hooks",severity="warning"} 1`)

	check(t, agent.Stop())
	check(t, agent.Start("--sync-period=1s"))
	check(t, agent.Await("no warning any more", func(s *status.Status) bool { return len(aboutHooks(s.Warnings)) == 0 }))
	checkServed(t, web, nodePorts)
}

func aboutHooks(warnings []string) []string {
	return slices.DeleteFunc(slices.Clone(warnings), func(w string) bool { return !strings.Contains(w, "tc-ingress") })
}

// expectTold expects a finding in the output of `waggle status`, in a section, in the log and, as a
// line, in the metrics of node-1's agent.
func expectTold(t *testing.T, s *setup, section, text, metric string) {
	t.Helper()
	agent := s.agents[0]
	out, err := agent.CLI("status")
	check(t, err)
	_, after, _ := strings.Cut(out, "\n"+section+"\n")
	if part, _, _ := strings.Cut(after, "\n\n"); !strings.Contains(part, text) {
		t.Errorf("waggle status says under %s:\n%s\nwant %s", section, part, text)
	}
	log, err := os.ReadFile(agent.LogFile)
	check(t, err)
	if !strings.Contains(strings.ReplaceAll(string(log), `\"`, `"`), text) {
		t.Errorf("the log says nothing of %s", text)
	}
	if got := metricsOf(t, s.Nodes[0]); !strings.Contains(got, "\n"+metric+"\n") {
		t.Errorf("the metrics have no line %s:\n%s", metric, got)
	}
}

// metricsOf reads the metrics of a node's agent, which it serves only to the node.
func metricsOf(t *testing.T, node *topo.Node) string {
	t.Helper()
	var conn net.Conn
	check(t, node.Do(func() (err error) {
		conn, err = net.Dial("tcp", "127.0.0.1:10249")
		return err
	}))
	defer conn.Close()
	_, err := fmt.Fprint(conn, "GET /metrics HTTP/1.0\r\n\r\n")
	check(t, err)
	answer, err := io.ReadAll(conn)
	check(t, err)
	return string(answer)
}
