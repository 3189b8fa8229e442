// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/source"
)

// The flag wins over the environment.
func TestAPIServers(t *testing.T) {
	for _, c := range []struct{ flag, env, want, by string }{
		{"", "", "", apiServersByEnv},
		{"", "10.0.0.1:6443, https://10.0.0.2\n", "10.0.0.1:6443 10.0.0.2:443", apiServersByEnv},
		{"10.0.0.3:6443", "10.0.0.1:6443", "10.0.0.3:6443", "--api-server"},
	} {
		t.Setenv(apiServersEnv, c.env)
		f := sourceFlags{apiServers: strings.Fields(c.flag)}
		got, by, err := f.servers()
		if err != nil || by != c.by || !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%+v: got %q by %s, error %v", c, got, by, err)
		}
	}
}

// A mistake in the ConfigMap is a problem that names the setting and what is wrong, and the other
// addresses are used. On the command line it ends the command.
func TestWrongAPIServers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://10.0.0.9:6443"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(apiServersEnv, "x, 10.0.0.1:6443, http://10.0.0.2")
	cfg := control.Config{Warnings: map[string]error{}}
	f := sourceFlags{kubeconfig: file}
	src, err := f.source(&globals{runDir: t.TempDir()}, cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if where := src.(source.Located).Location(); !strings.Contains(where, "10.0.0.1:6443 (api-servers, WAGGLE_API_SERVERS), 10.0.0.9:6443 (--kubeconfig "+file+")") {
		t.Errorf("it is at %s", where)
	}
	warning := fmt.Sprint(cfg.Warnings["api-servers"])
	for _, want := range []string{`api-servers, WAGGLE_API_SERVERS: "x" is neither host:port nor an https URL`, `"http://10.0.0.2": an API server is reached by https only`, "restart the agents"} {
		if !strings.Contains(warning, want) {
			t.Errorf("the warning is %q, want %q in it", warning, want)
		}
	}
	f.apiServers = []string{"x"}
	if _, err := f.source(&globals{runDir: t.TempDir()}, cfg, quiet()); err == nil || !strings.HasPrefix(err.Error(), `--api-server: "x"`) {
		t.Errorf("got error %v", err)
	}
}

func TestSourceName(t *testing.T) {
	for want, f := range map[string]sourceFlags{
		"manifests in /x": {manifests: "/x"}, "Kubernetes, by /k": {kubeconfig: "/k"}, "Kubernetes, as a pod": {},
	} {
		if got := f.name(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What the Kubernetes libraries log appears in our log, at its levels.
func TestKlog(t *testing.T) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	redirectKlog(logrus.NewEntry(logger))
	t.Cleanup(klog.ClearLogger)
	klog.InfoS("detail", "k", 1)
	klog.ErrorS(errors.New("broken"), "trouble", "k", 2)
	if got := out.String(); strings.Contains(got, "detail") || !strings.Contains(got, `level=warning msg=trouble error=broken k=2`) {
		t.Errorf("got %q", got)
	}
	logger.SetLevel(logrus.DebugLevel)
	klog.InfoS("detail", "k", 1)
	if got := out.String(); !strings.Contains(got, `level=debug msg=detail k=1`) {
		t.Errorf("got %q", got)
	}
}
