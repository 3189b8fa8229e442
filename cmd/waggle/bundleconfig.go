// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	gomaps "maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// podToken is the token of a pod's service account.
const podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// agentFacts are the facts about the agent that another process can find out.
type agentFacts struct {
	status *status.Status
	err    error // why there is no status

	args        []string // of the process
	environment []string
	flags       *agentFlags      // as on its command line; nil: see flagsErr
	file        *config.Settings // its configuration file
	flagsErr    error
	fileErr     error
}

func factsOf(g *globals) (a agentFacts) {
	if a.status, a.err = status.Read(g.runDir); a.err != nil {
		a.flagsErr = a.err
		return a
	}
	if !loader.Held(a.status.PinDir) {
		a.flagsErr = errors.New("the agent does not run")
		return a
	}
	a.flagsErr = a.readProcess()
	return a
}

// readProcess reads how the agent was started.
func (a *agentFacts) readProcess() error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", a.status.PID))
	if err != nil {
		return fmt.Errorf("the agent's flags: %w", err)
	}
	a.args = strings.Split(strings.Trim(string(raw), "\x00"), "\x00")
	at := slices.Index(a.args, "agent")
	if at < 0 {
		return fmt.Errorf("process %d is not the agent: it may be in another pid namespace", a.status.PID)
	}
	var flags agentFlags
	cmd := &cobra.Command{FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}} // those of all commands
	flags.add(cmd)
	if err := cmd.ParseFlags(slices.Concat(a.args[1:at], a.args[at+1:])); err != nil {
		return fmt.Errorf("the agent's flags: %w", err)
	}
	a.flags = &flags
	if flags.file != "" {
		a.readFile(cmd.Flags())
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", a.status.PID)); err == nil {
		for variable := range strings.SplitSeq(string(raw), "\x00") {
			name, _, _ := strings.Cut(variable, "=")
			if name == apiServersEnv || name == "KUBERNETES_SERVICE_HOST" || name == "KUBERNETES_SERVICE_PORT" || name == "GOGC" || name == "GOMEMLIMIT" {
				a.environment = append(a.environment, variable)
			}
		}
	}
	return nil
}

// readFile reads the configuration file as the agent does.
func (a *agentFacts) readFile(fs *pflag.FlagSet) {
	if a.file, a.fileErr = config.Load(a.flags.file); a.fileErr != nil {
		return
	}
	for _, set := range fromFile(a.file) {
		if flag := fs.Lookup(set.flag); flag != nil && !flag.Changed {
			_ = flag.Value.Set(set.value)
		}
	}
}

// kubeconfigs returns the paths of the kubeconfigs that the agent may use.
func (a *agentFacts) kubeconfigs() (paths []string) {
	if a.flags != nil && a.flags.from.kubeconfig != "" {
		paths = append(paths, a.flags.from.kubeconfig)
	}
	if a.file != nil && a.file.Kubeconfig != "" && !slices.Contains(paths, a.file.Kubeconfig) {
		paths = append(paths, a.file.Kubeconfig)
	}
	return paths
}

func (a *agentFacts) serve() configFlags {
	if a.flags == nil {
		return configFlags{}
	}
	return a.flags.configFlags
}

// cgroup returns the cgroup of the agent's socket hooks, else the root.
func (a *agentFacts) cgroup() string {
	if a.status != nil {
		for _, l := range a.status.Links {
			if l.Cgroup != "" {
				return l.Cgroup
			}
		}
	}
	root, _ := loader.CgroupRoot()
	return root
}

func writeConfiguration(b *bundle, w io.Writer) error {
	a := &b.agent
	if a.flags == nil {
		return a.flagsErr
	}
	fmt.Fprintf(w, "Flags\n  %s\n", strings.Join(a.args[1:], "\n  "))
	fmt.Fprintf(w, "\nEnvironment\n  %s\n", strings.Join(a.environment, "\n  "))
	errs := []error{a.fileErr}
	if a.file != nil {
		// The decoded file: it lacks unknown fields, which may hold anything.
		raw, err := yaml.Marshal(a.file.Effective)
		fmt.Fprintf(w, "\nConfiguration file %s, with defaults\n%s", a.flags.file, raw)
		errs = append(errs, err)
	}
	for _, path := range a.kubeconfigs() {
		fmt.Fprintf(w, "\nKubeconfig %s, without credentials\n", path)
		c, err := readKubeconfig(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		writeKubeconfig(w, c)
	}
	return errors.Join(errs...)
}

func readKubeconfig(path string) (*clientcmdapi.Config, error) {
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		var where *os.PathError
		if errors.As(err, &where) {
			return nil, err
		}
		return nil, fmt.Errorf("kubeconfig %s: it can't be decoded", path) // the error may quote it
	}
	return c, clientcmd.ResolveLocalPaths(c)
}

// writeKubeconfig writes which kinds of credentials there are, but no credentials.
func writeKubeconfig(w io.Writer, c *clientcmdapi.Config) {
	for _, name := range slices.Sorted(gomaps.Keys(c.Clusters)) {
		cluster := c.Clusters[name]
		fmt.Fprintf(w, "  cluster %s: server %s, authority in a file %v, inline %v, any is accepted %v\n", name, cluster.Server,
			cluster.CertificateAuthority != "", len(cluster.CertificateAuthorityData) > 0, cluster.InsecureSkipTLSVerify)
	}
	for _, name := range slices.Sorted(gomaps.Keys(c.AuthInfos)) {
		user := c.AuthInfos[name]
		fmt.Fprintf(w, "  user %s: token %v, token file %v, client certificate %v, password %v, command %v, provider %v\n", name,
			user.Token != "", user.TokenFile != "", user.ClientCertificate != "" || len(user.ClientCertificateData) > 0,
			user.Password != "", user.Exec != nil, user.AuthProvider != nil)
	}
	for _, name := range slices.Sorted(gomaps.Keys(c.Contexts)) {
		fmt.Fprintf(w, "  context %s: cluster %s, user %s, current %v\n", name, c.Contexts[name].Cluster, c.Contexts[name].AuthInfo, name == c.CurrentContext)
	}
}
