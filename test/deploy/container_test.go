// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestLeastPrivilege runs the agent in a container as deploy/waggle.yaml describes it: in a file
// system that holds nothing but the command, with the manifest's mounts, flags and capabilities.
func TestLeastPrivilege(t *testing.T) {
	c := serves(t, read(t, "waggle.yaml").container().SecurityContext.Capabilities.Add)
	c.checkStatus(t)
	for name, p := range c.probes() {
		check(t, c.awaitProbe(name, p, true))
	}
}

// TestWithoutOtherNamespaces: the capabilities that docs/kubernetes.md calls enough for all but
// the sockets of pods.
func TestWithoutOtherNamespaces(t *testing.T) {
	c := serves(t, enough)
	s, err := status.Read(c.agent.RunDir)
	check(t, err)
	for _, missing := range []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} {
		if !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, missing) }) {
			t.Errorf("%s is missing, and the warnings are %q", missing, s.Warnings)
		}
	}
	c.checkLinks(t, s)
}

// enough are the capabilities that the agent does not start without.
var enough = []v1.Capability{"BPF", "NET_ADMIN", "PERFMON"}

// TestMissingCapabilities: each is named when it is missing, and nothing is touched.
func TestMissingCapabilities(t *testing.T) {
	for i, missing := range enough {
		t.Run(string(missing), func(t *testing.T) {
			c := newContainer(t, slices.Delete(slices.Clone(enough), i, i+1))
			out, err := c.command(t, c.args(t, "--manifests=/manifests")).CombinedOutput()
			if want := "missing privileges: CAP_" + string(missing) + ";"; err == nil || !strings.Contains(string(out), want) {
				t.Errorf("%v, it says %s\nwant %s", err, out, want)
			}
			if _, err := os.Stat(c.agent.PinDir); err == nil {
				t.Errorf("there is %s", c.agent.PinDir)
			}
		})
	}
}

// serves runs an agent with these capabilities, and sends traffic to a service by way of each kind
// of hook.
func serves(t *testing.T, allowed []v1.Capability) *container {
	c := newContainer(t, allowed)
	check(t, c.start(t, c.args(t, "--manifests=/manifests")))
	pod, err := c.node.AddPod("web-a", topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}})
	check(t, err)
	check(t, c.manifests.WritePod(pod, "app: web"))
	check(t, c.manifests.Write("web.yaml", service))
	check(t, c.agent.Await("the service's endpoint", func(s *status.Status) bool { return s.Proxy.Services == 2 }))
	inside, err := c.node.AddPod("inside", topo.PodOptions{})
	check(t, err)
	outside, err := c.node.AddPod("outside", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	for _, way := range []struct {
		name string
		from *topo.Host
		to   netip.AddrPort
	}{
		{"node port", c.network.Laptop, netip.AddrPortFrom(c.node.IP4, 30080)},
		{"node port, IPv6", c.network.Laptop, netip.AddrPortFrom(c.node.IP6, 30080)},
		{"cluster IP by socket", inside.Host, netip.MustParseAddrPort("10.96.0.1:80")},
		{"cluster IP by packet", outside.Host, netip.MustParseAddrPort("[fd00:10:96::1]:80")},
	} {
		client, err := way.from.Client()
		check(t, err)
		awaitServed(t, way.name, func() topo.Reply { return client.Get(topo.Request{To: way.to}) })
		check(t, client.Close())
	}
	return c
}

const service = `apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: NodePort
  selector: {app: web}
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.1", "fd00:10:96::1"]
  ports:
  - {port: 80, targetPort: 8080, nodePort: 30080}
`

// awaitServed allows for the endpoint and the devices of new pods to be taken in.
func awaitServed(t *testing.T, name string, get func() topo.Reply) {
	t.Helper()
	var last topo.Reply
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = get(); last.Pod == "web-a" {
			return
		}
	}
	t.Errorf("%s: %s", name, last)
}

// container is an agent's on a node of a network.
type container struct {
	network   *topo.Network
	node      *topo.Node
	manifests cluster.Manifests
	agent     *cluster.Agent // for all but starting
	spec      v1.Container
	bundle    bundle
}

func newContainer(t *testing.T, allowed []v1.Capability) *container {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes namespaces")
	}
	check(t, topo.MountBPFFS())
	n, err := topo.New(topo.Options{Nodes: 1})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	c := &container{network: n, node: n.Nodes[0], manifests: cluster.Manifests{Dir: t.TempDir()}, spec: read(t, "waggle.yaml").container()}
	check(t, c.manifests.WriteNode(c.node))
	c.agent = cluster.NewAgent(n, c.node, cluster.AgentOptions{Binary: binary, Manifests: c.manifests.Dir, Dir: t.TempDir()})
	check(t, os.Mkdir(c.agent.RunDir, 0o755))
	c.bundle = bundle{
		Root: t.TempDir(), Binary: binary, Capabilities: allowed,
		Mounts: append(c.mounts(t), bind{c.manifests.Dir, "/manifests", false}),
		Env:    []string{"NODE_NAME=" + c.node.Name, "WAGGLE_API_SERVERS="},
	}
	return c
}

// mounts are the manifest's; but for the run directory, of which each agent here has its own.
func (c *container) mounts(t *testing.T) []bind {
	t.Helper()
	o := read(t, "waggle.yaml")
	var out []bind
	for _, m := range o.container().VolumeMounts {
		i := slices.IndexFunc(o.daemonSet.Spec.Template.Spec.Volumes, func(v v1.Volume) bool { return v.Name == m.Name })
		volume := o.daemonSet.Spec.Template.Spec.Volumes[i]
		source := ""
		switch {
		case volume.ConfigMap != nil:
			source = t.TempDir()
			for _, item := range volume.ConfigMap.Items {
				check(t, os.WriteFile(filepath.Join(source, item.Path), []byte(o.configMap.Data[item.Key]), 0o644))
			}
		case volume.Secret != nil: // there is none, and it may be missing
			source = t.TempDir()
		case volume.HostPath.Path == "/run/waggle":
			source = c.agent.RunDir
		default:
			source = volume.HostPath.Path
		}
		out = append(out, bind{source, m.MountPath, m.ReadOnly})
	}
	return out
}

// args are the manifest's, with what makes this agent one of several on one machine, and more.
// TestFlags finds flags that don't exist.
func (c *container) args(t *testing.T, more ...string) []string {
	t.Helper()
	const cgroups = "/sys/fs/cgroup"
	if !strings.HasPrefix(c.node.Cgroup, cgroups) {
		t.Skipf("the hierarchy of cgroup2 is not mounted below %s", cgroups)
	}
	all := read(t, "waggle.yaml").container().Args
	known := flags(t, all[0])
	args := []string{all[0]}
	for _, arg := range all[1:] {
		if flag, _, _ := strings.Cut(arg, "="); known[flag] {
			args = append(args, strings.ReplaceAll(arg, "$(NODE_NAME)", c.node.Name))
		}
	}
	return append(append(args, "--pin-dir="+c.agent.PinDir, "--xdp=always",
		"--cgroup=/host/cgroup"+strings.TrimPrefix(c.node.Cgroup, cgroups),
		"--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"), more...)
}

// command runs the container with these arguments.
func (c *container) command(t *testing.T, args []string) *topo.Command {
	t.Helper()
	c.bundle.Args = args
	raw, err := json.Marshal(c.bundle)
	check(t, err)
	self, err := os.Executable()
	check(t, err)
	cmd := c.node.Command(self)
	cmd.Env = append(os.Environ(), containerVariable+"="+string(raw))
	return cmd
}

// start starts the container and waits for the agent's first sync.
func (c *container) start(t *testing.T, args []string) error {
	t.Helper()
	if _, err := c.launch(t, args); err != nil {
		return err
	}
	return c.agent.Await("the first sync", func(s *status.Status) bool { return s.Proxy.Synced })
}

// launch starts the container, and ends it with the test if stop has not.
func (c *container) launch(t *testing.T, args []string) (stop func(), err error) {
	t.Helper()
	log, err := os.Create(c.agent.LogFile)
	check(t, err)
	defer log.Close()
	cmd := c.command(t, args)
	cmd.Stdout, cmd.Stderr = log, log
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(c.agent.LogFile)
			t.Logf("the container:\n%s", log)
		}
		check(t, c.agent.Cleanup())
	})
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = sync.OnceFunc(func() { _ = cmd.Stop(10 * time.Second) })
	t.Cleanup(stop)
	return stop, nil
}

// checkStatus wants all attached, the ports reserved, nothing to warn of, and the agent to find
// the whole hierarchy of cgroups in spite of its own being mounted first.
func (c *container) checkStatus(t *testing.T) {
	t.Helper()
	check(t, c.agent.Await("a status with all devices", func(s *status.Status) bool { return len(s.Devices) >= 4 }))
	s, err := status.Read(c.agent.RunDir)
	check(t, err)
	if len(s.Warnings)+len(s.Problems)+len(s.Proxy.Failures) > 0 {
		t.Errorf("warnings %v, problems %v, failures %v", s.Warnings, s.Problems, s.Proxy.Failures)
	}
	c.checkLinks(t, s)
	check(t, c.node.Do(func() error {
		reserved, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
		if got := strings.TrimSpace(string(reserved)); got != "10000-29999" {
			return fmt.Errorf("reserved ports %q (%v)", got, err)
		}
		return nil
	}))
	log, err := os.ReadFile(c.agent.LogFile)
	check(t, err)
	if !strings.HasPrefix(string(log), "cgroup root /host/cgroup") {
		t.Errorf("%.100s", log)
	}
}

// checkLinks wants all programs to be attached, to devices and to the cgroup, and to be seen to be.
func (c *container) checkLinks(t *testing.T, s *status.Status) {
	t.Helper()
	sockets := 0
	for _, l := range s.Links {
		if !l.Attached {
			t.Errorf("not attached: %+v", l)
		}
		if l.Kind == "cgroup" {
			sockets++
		}
	}
	if sockets == 0 {
		t.Error("no programs of sockets")
	}
}

// TestVersionInAnEmptyImage: the command needs no file to start.
func TestVersionInAnEmptyImage(t *testing.T) {
	c := newContainer(t, nil)
	c.bundle.Mounts = nil
	if out, err := c.command(t, []string{"version"}).CombinedOutput(); err != nil || !strings.Contains(string(out), "devel") {
		t.Errorf("%v: %s", err, out)
	}
}
