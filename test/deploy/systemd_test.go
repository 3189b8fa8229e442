// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestDebianPackageSystemd installs the package where systemd is the init, and has systemd start, restart and
// stop the agent. A purge ends an agent that runs, and leaves nothing behind.
func TestDebianPackageSystemd(t *testing.T) {
	file := release(t, "waggle*"+deb.suffix)
	later := repack(t, deb)
	n, err := topo.New(topo.Options{Nodes: 1})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	m := newMachine(t, n.Nodes[0])
	m.boot(t)
	before := m.leftovers(t)

	m.run(t, append(deb.install, file)...)
	m.checkUnit(t, "after the installation", "ActiveState=inactive", "UnitFileState=disabled")
	m.configure(t, "/sys/fs/cgroup")
	m.serve(t)
	m.run(t, "systemctl", "enable", "--now", "waggle.service")
	m.awaitAgent(t, 0)
	m.checkUnit(t, "once enabled", "ActiveState=active", "SubState=running", "UnitFileState=enabled")
	if out := m.run(t, "systemctl", "status", "--no-pager", "waggle.service"); !strings.Contains(out, "Active: active (running)") {
		t.Errorf("systemctl status: %s", out)
	}

	client, err := n.Laptop.Client()
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	to := topo.Request{To: netip.AddrPortFrom(m.node.IP4, 30080)}
	served := func(when string) {
		t.Helper()
		awaitServed(t, when, func() topo.Reply { return client.Get(to) })
	}
	served("at first")
	stream, reply := client.OpenTCP(topo.Request{To: netip.AddrPortFrom(m.node.IP4, 30007)})
	if reply.Err != "" {
		t.Fatal(reply)
	}
	lives := func(when string) {
		t.Helper()
		if reply := stream.Exchange(100); reply.Err != "" {
			t.Errorf("%s the connection breaks: %v", when, reply)
		}
	}

	for _, step := range []struct {
		when string
		do   []string
	}{
		{"after a restart", []string{"systemctl", "restart", "waggle.service"}},
		{"after a crash", []string{"systemctl", "kill", "--signal=KILL", "waggle.service"}},
		{"after an upgrade", append(deb.upgrade, later)},
	} {
		old := m.mainPID(t)
		m.run(t, step.do...)
		m.awaitAgent(t, old)
		lives(step.when)
		served(step.when)
	}

	m.run(t, "systemctl", "stop", "waggle.service")
	m.checkUnit(t, "once stopped", "ActiveState=inactive", "Result=success")
	lives("without an agent")
	served("without an agent")

	m.run(t, "systemctl", "start", "waggle.service")
	m.awaitAgent(t, 0)
	m.run(t, deb.purge...)
	if _, err := os.Stat(filepath.Join(m.root, "sys/fs/bpf/waggle")); err == nil {
		t.Error("the package is purged, and the datapath is there")
	}
	m.checkUnit(t, "once purged", "LoadState=not-found", "ActiveState=inactive")
	m.run(t, "rm", "-rf", "/etc/waggle")
	if diff := cmp.Diff(before, m.leftovers(t)); diff != "" {
		t.Errorf("left behind (+):\n%s", diff)
	}
}

// boot makes systemd the init of the machine. Of the units that come with this machine's root file system, only the journal
// runs, without its link in /dev: others would change the devices and settings that both share.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	m.run(t, "sh", "-ec", `
		for place in /etc /lib /usr/lib; do rm -rf $place/systemd/system/*.target.wants; done
		cd /etc/systemd/system
		mkdir sysinit.target.wants
		ln -s /lib/systemd/system/systemd-journald.service sysinit.target.wants/
		ln -s /dev/null systemd-journald-dev-log.socket
		ln -s /dev/null systemd-journald-audit.socket`)
	cmd := m.node.Command("unshare", "--cgroup", "--ipc", "--mount", "--uts", "chroot", m.root, "sh", "-ec", `
		mount -t proc proc /proc
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		export container=test
		exec /lib/systemd/systemd --unit=basic.target --show-status=no`)
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // fails only if it has ended
		_ = cmd.Wait()
	})
	m.enter = []string{"nsenter", "--target", strconv.Itoa(cmd.Process.Pid), "--mount", "--pid", "--cgroup", "--root", "--wd"}
	m.await(t, "systemd has not reached basic.target", func() bool {
		return m.command("systemctl", "is-active", "--quiet", "basic.target").Run() == nil
	})
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.command("journalctl", "--no-pager", "--lines=100").CombinedOutput()
			t.Logf("the journal:\n%s", out)
		}
	})
}

func (m *machine) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(topo.Patient(60 * time.Second)); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// mainPID is the agent's, as systemd knows it.
func (m *machine) mainPID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(m.run(t, "systemctl", "show", "--property=MainPID", "--value", "waggle.service")))
	check(t, err)
	return pid
}

// awaitAgent waits until systemd runs an agent other than the old one, and this one has synced.
func (m *machine) awaitAgent(t *testing.T, old int) {
	t.Helper()
	m.await(t, "no agent of systemd has a status with a first sync", func() bool {
		pid := m.mainPID(t)
		return pid != 0 && pid != old && m.synced(pid)
	})
}

// checkUnit checks some of what systemd says of the unit.
func (m *machine) checkUnit(t *testing.T, when string, want ...string) {
	t.Helper()
	lines := strings.Split(m.run(t, "systemctl", "show", "waggle.service"), "\n")
	have := map[string]bool{}
	for _, line := range lines {
		have[line] = true
	}
	for _, w := range want {
		if !have[w] {
			name, _, _ := strings.Cut(w, "=")
			t.Errorf("%s: want %s, have %s", when, w, strings.TrimSpace(m.run(t, "systemctl", "show", "--property="+name, "waggle.service")))
		}
	}
}
