// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// packaging is how one kind of package is handled in a machine.
type packaging struct {
	suffix                         string
	install, upgrade, remove, list []string
	purge                          []string // after remove; rpm has none
}

// The databases of rpm on a Debian machine are empty, so nothing provides /bin/sh.
var (
	deb = packaging{
		suffix: "_amd64.deb", install: []string{"dpkg", "-i"}, upgrade: []string{"dpkg", "-i"},
		remove: []string{"dpkg", "-r", "waggle"}, purge: []string{"dpkg", "-P", "waggle"}, list: []string{"dpkg", "-L", "waggle"},
	}
	rpm = packaging{
		suffix: ".x86_64.rpm", install: []string{"rpm", "-i", "--nodeps"}, upgrade: []string{"rpm", "-U", "--nodeps"},
		remove: []string{"rpm", "-e", "waggle"}, list: []string{"rpm", "-ql", "waggle"},
	}
)

// TestDebianPackage and TestRPMPackage install a package, run what its unit starts, upgrade it under a
// connection, and remove it: nothing of it is left then.
func TestDebianPackage(t *testing.T) { testPackage(t, deb) }

func TestRPMPackage(t *testing.T) { testPackage(t, rpm) }

func testPackage(t *testing.T, p packaging) {
	file := release(t, "waggle*"+p.suffix)
	later := repack(t, p)
	n, err := topo.New(topo.Options{Nodes: 1})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	m := newMachine(t, n.Nodes[0])
	before := m.leftovers(t)

	m.run(t, append(p.install, file)...)
	m.checkFiles(t, strings.Fields(m.run(t, p.list...)))
	m.configure(t, m.node.Cgroup)
	stop := m.startAgent(t)
	m.serve(t)
	client, err := n.Laptop.Client()
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	to := topo.Request{To: netip.AddrPortFrom(m.node.IP4, 30080)}
	awaitServed(t, "before the upgrade", func() topo.Reply { return client.Get(to) })
	stream, reply := client.OpenTCP(topo.Request{To: netip.AddrPortFrom(m.node.IP4, 30007)})
	lives := func(when string) {
		t.Helper()
		if reply := stream.Exchange(100); reply.Err != "" {
			t.Errorf("%s the connection breaks: %v", when, reply)
		}
	}
	if reply.Err != "" {
		t.Fatal(reply)
	}
	lives("at first")

	// Between the two agents, and with the package replaced, the datapath is served.
	stop()
	m.run(t, append(p.upgrade, later)...)
	awaitServed(t, "without an agent", func() topo.Reply { return client.Get(to) })
	lives("without an agent")
	if got := m.run(t, "grep", "WAGGLE_ARGS", "/etc/default/waggle"); !strings.Contains(got, m.node.Cgroup) {
		t.Errorf("the upgrade has replaced the configuration: %s", got)
	}
	stop = m.startAgent(t)
	awaitServed(t, "after the upgrade", func() topo.Reply { return client.Get(to) })
	lives("after the upgrade")

	// The datapath is not taken from under an agent.
	if out, err := m.command(p.remove...).CombinedOutput(); err == nil || !strings.Contains(string(out), "another agent holds") {
		t.Errorf("with an agent that runs, %v: %v: %s", p.remove, err, out)
	}
	stop()
	m.run(t, p.remove...)
	if _, err := os.Stat(filepath.Join(m.root, "sys/fs/bpf/waggle")); err == nil {
		t.Error("the package is removed, and the datapath is there")
	}
	if p.purge != nil {
		m.run(t, "test", "-e", "/etc/default/waggle")
		m.run(t, p.purge...)
	}
	m.run(t, "rm", "-rf", "/etc/waggle/manifests", "/etc/default/waggle.rpmsave")
	m.run(t, "sh", "-c", "rmdir /etc/waggle 2>/dev/null || true")
	if diff := cmp.Diff(before, m.leftovers(t)); diff != "" {
		t.Errorf("left behind (+):\n%s", diff)
	}
}

// release is the one file of a release with such a name.
func release(t *testing.T, pattern string) string {
	t.Helper()
	const variable = "WAGGLE_RELEASE"
	dir := os.Getenv(variable)
	if dir == "" {
		t.Skipf("%s is not set: see make test-packages", variable)
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	check(t, err)
	if len(found) != 1 {
		t.Fatalf("%s: %d files match %s", dir, len(found), pattern)
	}
	return found[0]
}

// repack makes a package of a later version from what `make packages` has laid out.
func repack(t *testing.T, p packaging) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool(t, "nfpm"), "package", "-f", "packaging/nfpm.yaml", "-p", strings.TrimPrefix(filepath.Ext(p.suffix), "."), "-t", dir)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PACKAGE_ARCH=amd64", "PACKAGE_VERSION=999.0.0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	return found[0]
}

// machine is the root file system of this machine, of which a copy on write is changed, on a node.
type machine struct {
	node  *topo.Node
	root  string
	enter []string // the command that runs a command in it
}

// newMachine mounts it. No systemd runs in it; maintainer scripts see so by /run.
func newMachine(t *testing.T, node *topo.Node) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{node: node, root: filepath.Join(dir, "root")}
	mount := func(at string, args ...string) {
		if out, err := exec.Command("mount", append(args, at)...).CombinedOutput(); err != nil {
			t.Fatalf("mount %v %s: %v: %s", args, at, err, out)
		}
		t.Cleanup(func() { check(t, exec.Command("umount", "-R", "-l", at).Run()) })
	}
	mount(dir, "-t", "tmpfs", "tmpfs")
	for _, name := range []string{"root", "upper", "work"} {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	mount(m.root, "-t", "overlay", "overlay", "-o", "lowerdir=/,upperdir="+dir+"/upper,workdir="+dir+"/work")
	for _, name := range []string{"proc", "dev", "sys"} {
		mount(filepath.Join(m.root, name), "--bind", "/"+name)
	}
	mount(filepath.Join(m.root, "sys/fs/cgroup"), "--rbind", "/sys/fs/cgroup")
	mount(filepath.Join(m.root, "sys/fs/bpf"), "-t", "bpf", "bpf")
	mount(filepath.Join(m.root, "run"), "-t", "tmpfs", "tmpfs")
	m.enter = []string{"chroot", m.root}
	check(t, os.MkdirAll(filepath.Join(m.root, dir), 0o755)) // which the overlay shows empty
	return m
}

// command runs in the machine, with packages of the test's own directories in their places.
func (m *machine) command(args ...string) *topo.Command {
	last := args[len(args)-1]
	if info, err := os.Stat(last); err == nil && info.Mode().IsRegular() && filepath.Ext(last) != "" {
		inside := filepath.Join("/run", filepath.Base(last))
		if raw, err := os.ReadFile(last); err == nil && os.WriteFile(filepath.Join(m.root, inside), raw, 0o644) == nil {
			args = append(args[:len(args)-1:len(args)-1], inside)
		}
	}
	return m.node.Command(m.enter[0], append(m.enter[1:len(m.enter):len(m.enter)], args...)...)
}

func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// checkFiles: the command, its unit, a page of the manual for each subcommand and the completions.
func (m *machine) checkFiles(t *testing.T, files []string) {
	t.Helper()
	have := map[string]bool{}
	for _, file := range files {
		have[file] = true
	}
	completions := "/usr/share/zsh/vendor-completions/_waggle"
	if !have[completions] {
		completions = "/usr/share/zsh/site-functions/_waggle"
	}
	for _, want := range []string{
		"/usr/bin/waggle", "/usr/lib/systemd/system/waggle.service", "/etc/default/waggle", "/etc/waggle/manifests",
		"/usr/share/man/man1/waggle.1.gz", "/usr/share/man/man1/waggle-agent.1.gz", "/usr/share/man/man1/waggle-service-list.1.gz",
		"/usr/share/bash-completion/completions/waggle", "/usr/share/fish/vendor_completions.d/waggle.fish", completions,
		"/usr/share/doc/waggle/copyright", "/usr/share/doc/waggle/docs/operations.md",
	} {
		if !have[want] {
			t.Errorf("the package lacks %s", want)
		}
	}
	if out := m.run(t, "waggle", "version"); !strings.HasPrefix(out, "waggle ") {
		t.Errorf("waggle version: %s", out)
	}
	if out := m.run(t, "bash", "-c", ". /usr/share/bash-completion/completions/waggle && complete -p waggle"); !strings.Contains(out, "waggle") {
		t.Errorf("completion: %s", out)
	}
	if out := m.run(t, "systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/waggle.service"); strings.Contains(out, "waggle") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
}

// configure has the agent serve the node's cgroup and not that of the whole machine, as the
// administrator would choose flags.
func (m *machine) configure(t *testing.T, cgroup string) {
	t.Helper()
	m.run(t, "sed", "-i", `s|^WAGGLE_ARGS="\(.*\)"$|WAGGLE_ARGS="\1 --xdp=always --node-name=`+m.node.Name+
		` --map-size=flows4=65536,flows6=65536,backends=4096,slots=16384 --cgroup=`+cgroup+`"|`, "/etc/default/waggle")
}

// serve makes a pod, and manifests of its Service on nodePorts 30080 and 30007.
func (m *machine) serve(t *testing.T) {
	t.Helper()
	pod, err := m.node.AddPod("web-a", topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}, Echo: []uint16{7000}})
	check(t, err)
	manifests := cluster.Manifests{Dir: filepath.Join(m.root, "etc/waggle/manifests")}
	check(t, manifests.WriteNode(m.node))
	check(t, manifests.WritePod(pod, "app: web"))
	check(t, manifests.Write("web.yaml", strings.Replace(service, "  - {port", "  - {name: echo, port: 7, targetPort: 7000, nodePort: 30007}\n  - {name: web, port", 1)))
}

// startAgent does what systemd does for the unit: environment, command, capabilities.
func (m *machine) startAgent(t *testing.T) (stop func()) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(m.root, "usr/lib/systemd/system/waggle.service"))
	check(t, err)
	setting := func(name string) string {
		match := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(raw)
		if match == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return string(match[1])
	}
	var capabilities []string
	for name := range strings.FieldsSeq(setting("CapabilityBoundingSet")) {
		capabilities = append(capabilities, "+"+strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	script := "set -a; . " + setting("EnvironmentFile") + "; mkdir -p /run/" + setting("RuntimeDirectory") + "; exec setpriv --no-new-privs --bounding-set=-all," +
		strings.Join(capabilities, ",") + " " + setting("ExecStart")
	cmd := m.command("sh", "-c", script)
	log, err := os.CreateTemp(t.TempDir(), "agent")
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	stop = func() { _ = cmd.Stop(topo.Patient(10 * time.Second)) }
	t.Cleanup(func() {
		stop()
		if raw, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the agent:\n%s", raw)
		}
	})
	for deadline := time.Now().Add(topo.Patient(60 * time.Second)); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if m.synced(cmd.Process.Pid) {
			return stop
		}
	}
	t.Fatal("the agent has no status with a first sync")
	return nil
}

// synced reports whether a process is the agent, and has synced.
func (m *machine) synced(pid int) bool {
	s, err := status.Read(filepath.Join(m.root, "run/waggle"))
	return err == nil && s.PID == pid && s.Proxy.Synced
}

// leftovers are files with waggle's name where packages put files, and what the datapath pins.
func (m *machine) leftovers(t *testing.T) []string {
	t.Helper()
	return strings.Fields(m.run(t, "find", "/etc", "/usr/bin", "/usr/sbin", "/usr/lib/systemd", "/usr/share", "/sys/fs/bpf", "/run",
		"-xdev", "-name", "*waggle*", "-not", "-name", "*.deb", "-not", "-name", "*.rpm"))
}
