// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// The flag wins over the environment.
func TestAPIServers(t *testing.T) {
	for _, c := range []struct{ flag, env, want string }{
		{"", "", ""},
		{"", "10.0.0.1:6443, https://10.0.0.2", "10.0.0.1:6443 10.0.0.2:443"},
		{"10.0.0.3:6443", "10.0.0.1:6443", "10.0.0.3:6443"},
	} {
		t.Setenv(apiServersEnv, c.env)
		f := sourceFlags{apiServers: strings.Fields(c.flag)}
		got, err := f.servers()
		if err != nil || !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%+v: got %q, error %v", c, got, err)
		}
	}
	t.Setenv(apiServersEnv, "x")
	if _, err := (&sourceFlags{}).servers(); err == nil || !strings.HasPrefix(err.Error(), apiServersEnv+`: "x"`) {
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
