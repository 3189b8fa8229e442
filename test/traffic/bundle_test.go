// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// bundleFiles are the files of a bundle from a node with an agent.
var bundleFiles = []string{
	"MANIFEST", "version.txt", "status.json", "status.txt", "counters.txt", "maps/services.txt", "maps/backends.txt", "maps/flows.txt",
	"maps/addresses.txt", "maps/devices.txt", "maps/nexthops.txt", "maps/sizes.txt", "metrics.txt", "health.txt", "configz.json",
	"configuration.txt", "net/links.txt", "net/addresses.txt", "net/routes.txt", "net/rules.txt", "net/neighbours.txt",
	"net/netfilter.txt", "programs.txt", "kernel.txt", "log.txt",
	"explain.txt", "events.txt",
}

// The secrets of the kubeconfig that the agent's configuration names.
const (
	bundleToken    = "bundle-test-token-4711"
	bundlePassword = "bundle-test-password-0815"
	bundleKubelet  = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.168.1.77:6443"}}]
users: [{name: u, user: {token: ` + bundleToken + `, password: ` + bundlePassword + `, username: someone}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`
)

// TestBundle: all parts are there, and none holds a secret of the agent, even
// one that is in a flag.
func TestBundle(t *testing.T) {
	dir := t.TempDir()
	kubeconfig, configuration := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "config.yaml")
	check(t, os.WriteFile(kubeconfig, []byte(bundleKubelet), 0o600))
	check(t, os.WriteFile(configuration, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+
		"token: "+bundleToken+"\nclientConnection: {kubeconfig: "+kubeconfig+"}\n"), 0o600))
	s, c, services := twoServices(t, modes[0], "--config", configuration, "--ignore-devices", bundleToken)
	var clientAddrs []string
	for _, v6 := range []bool{false, true} {
		node := s.Nodes[0].IP4
		if v6 {
			node = s.Nodes[0].IP6
		}
		stream, reply := c.laptop.OpenTCP(topo.Request{To: services[1].nodePort(node, echo)})
		check(t, reply.Error())
		check(t, stream.Exchange(100).Error())
		clientAddrs = append(clientAddrs, reply.Local.Addr().String())
	}
	rules := s.Nodes[0].Command("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ip saddr "+
		clientAddrs[0]+" ct state new counter accept")
	out, err := rules.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	file := filepath.Join(dir, "plain.tar.gz")
	printed, err := s.agents[0].CLI("bundle", file)
	check(t, err)
	raw, err := os.ReadFile(file)
	check(t, err)
	plain := untar(t, raw)
	checkBundle(t, plain)
	if want := plain["MANIFEST"] + "\nWritten: " + file + "\n"; printed != want {
		t.Errorf("it prints\n%s\nwant\n%s", printed, want)
	}
	for name, want := range map[string][]string{
		"maps/flows.txt": clientAddrs, "net/netfilter.txt": {clientAddrs[0] + "]", "chain inet t c (filter at input, priority 0, policy accept): 1 rules"},
		"maps/services.txt": {"default/remote", "10.96.0.2:80"}, "status.txt": {"running (pid"}, "metrics.txt": {"waggle_packets_total{"},
		"health.txt": {":10256/livez: 200 OK", ":10249/readyz: 200 OK"}, "net/routes.txt": {"10.244.1.0/24", "fd00:"}, "log.txt": {"level=info"},
		"configuration.txt": {"server https://192.168.1.77:6443", "user u: token true", "kubeconfig: " + kubeconfig},
		"programs.txt":      {"waggle_xdp", "waggle_ingress", "connect4"}, "kernel.txt": {"net.ipv4.ip_forward: 1", "mounted: bpf at "},
		"events.txt":    {"EVENT", "events shown"},
		"explain.txt":   {"default/local: ", "sock (waggle_connect4)", "xdp at eth0 (waggle_xdp)"},
		"net/rules.txt": {"family 2: ", "family 10: "}, "version.txt": {"command: waggle ", "agent: "}, "maps/addresses.txt": {"192.168.1.2 local true"},
	} {
		for _, w := range want {
			if !strings.Contains(plain[name], w) {
				t.Errorf("%s does not say %q:\n%s", name, w, plain[name])
			}
		}
	}
	if !strings.Contains(plain["configuration.txt"], "(secret)") {
		t.Errorf("the flag that holds a secret is not there:\n%s", plain["configuration.txt"])
	}

	result, err := s.agents[0].Command("bundle", "--hash-addresses", "-").Output()
	check(t, err)
	hashed := untar(t, result)
	checkBundle(t, hashed)
	for name, text := range hashed {
		for _, addr := range append(clientAddrs, "192.168.1.77", c.insidePod.IP4.String()) {
			if regexp.MustCompile(`(^|[^0-9a-f:.])` + regexp.QuoteMeta(addr) + `($|[^0-9a-f:.])`).MatchString(text) {
				t.Errorf("%s, hashed, has %s:\n%s", name, addr, text)
			}
		}
	}
	checkHashes(t, hashed["maps/flows.txt"])
	if !json.Valid([]byte(hashed["status.json"])) {
		t.Errorf("hashed, the status is no JSON:\n%s", hashed["status.json"])
	}
	for name, want := range map[string]string{"maps/backends.txt": "10.244.1.2:8080", "maps/services.txt": "10.96.0.2:80", "net/addresses.txt": "192.168.1.2/24"} {
		if !strings.Contains(hashed[name], want) {
			t.Errorf("%s, hashed, has no %s:\n%s", name, want, hashed[name])
		}
	}
}

// TestBundleWithout: parts that can't be read are named with the reason, and
// the others are there.
func TestBundleWithout(t *testing.T) {
	s, _, _ := twoServices(t, modes[0])
	agent := s.agents[0]
	const nobody = 65534
	result, err := agent.RunAs(nobody, "bundle", "-")
	check(t, err)
	if result.Status != 0 {
		t.Fatal(result)
	}
	files := untar(t, []byte(result.Stdout))
	checkManifest(t, files)
	for _, want := range []string{"maps/flows.txt: not there: ", "net/netfilter.txt: not there: ", "operation not permitted", "run as root", "User 65534 made it: only root"} {
		if !strings.Contains(files["MANIFEST"], want) {
			t.Errorf("the manifest does not say %q:\n%s", want, files["MANIFEST"])
		}
	}
	for _, name := range []string{"net/links.txt", "net/routes.txt", "kernel.txt"} {
		if files[name] == "" {
			t.Errorf("there is no %s:\n%s", name, files["MANIFEST"])
		}
	}
	check(t, agent.Stop())
	out, err := agent.Command("bundle", "-").Output()
	check(t, err)
	files = untar(t, out)
	checkManifest(t, files)
	for _, want := range []string{"metrics.txt: not there: the agent does not run", "log.txt: not complete: the agent does not run"} {
		if !strings.Contains(files["MANIFEST"], want) {
			t.Errorf("the manifest does not say %q:\n%s", want, files["MANIFEST"])
		}
	}
	if !strings.Contains(files["maps/services.txt"], "default/remote") || !strings.Contains(files["log.txt"], "journalctl") {
		t.Errorf("services:\n%s\nlog:\n%s", files["maps/services.txt"], files["log.txt"])
	}
}

// untar unpacks a bundle.
func untar(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	unpacked, err := gzip.NewReader(bytes.NewReader(raw))
	check(t, err)
	files := map[string]string{}
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		check(t, err)
		text, err := io.ReadAll(archive)
		check(t, err)
		files[strings.TrimPrefix(header.Name, "waggle-bundle/")] = string(text)
	}
}

// checkManifest expects exactly the files that the manifest lists.
func checkManifest(t *testing.T, files map[string]string) {
	t.Helper()
	_, holds, _ := strings.Cut(files["MANIFEST"], "\nHolds\n")
	holds, _, _ = strings.Cut(holds, "\n\n")
	listed := 0
	for line := range strings.Lines(holds) {
		name := strings.Fields(line)[0]
		listed++
		if strings.TrimSpace(files[name]) == "" {
			t.Errorf("%s is listed, and empty or not there", name)
		}
	}
	if listed != len(files) {
		t.Errorf("%d files are listed of %d:\n%s", listed, len(files), files["MANIFEST"])
	}
}

func checkBundle(t *testing.T, files map[string]string) {
	t.Helper()
	checkManifest(t, files)
	for _, name := range bundleFiles {
		if files[name] == "" {
			t.Errorf("there is no %s:\n%s", name, files["MANIFEST"])
		}
	}
	_, missing, _ := strings.Cut(files["MANIFEST"], "\nCould not be read\n")
	missing, _, _ = strings.Cut(missing, "\n\n")
	for line := range strings.Lines(missing) {
		if !strings.Contains(line, "the kernel's configuration is in none of") { // as in containers
			t.Errorf("it could not read %s", line)
		}
	}
	for name, text := range files {
		for _, secret := range []string{bundleToken, bundlePassword} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has the secret %s:\n%s", name, secret, text)
			}
		}
	}
}

// checkHashes: one client has one hash, in both records of a flow.
func checkHashes(t *testing.T, flows string) {
	t.Helper()
	of := map[string][]string{}
	for line := range strings.Lines(flows) {
		for _, hash := range regexp.MustCompile(`addr-[0-9a-f]{12}`).FindAllString(line, -1) {
			of[hash] = append(of[hash], strings.Join(strings.Fields(line), " "))
		}
	}
	counts := []string{}
	for _, lines := range of {
		counts = append(counts, fmt.Sprint(len(lines)))
	}
	slices.Sort(counts)
	if want := []string{"2", "2"}; !slices.Equal(counts, want) {
		t.Errorf("hashes occur %s times, want %s, of a client of each family:\n%s", counts, want, flows)
	}
}
