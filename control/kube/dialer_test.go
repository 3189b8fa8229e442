// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

func TestParseAPIServer(t *testing.T) {
	for s, want := range map[string]string{
		"https://10.0.0.1:6443": "10.0.0.1:6443", "https://10.0.0.1": "10.0.0.1:443", "https://[fd00::1]:6443/": "[fd00::1]:6443",
		"api.example:6443": "api.example:6443", "[fd00::1]:6443": "[fd00::1]:6443",
	} {
		if got, err := ParseAPIServer(s); err != nil || got != want {
			t.Errorf("%s: got %q, error %v", s, got, err)
		}
	}
	for _, s := range []string{"", "10.0.0.1", ":6443", "10.0.0.1:0", "10.0.0.1:https", "fd00::1", "http://10.0.0.1", "https://", "https://a/b", "https://a:0", "https://u@a", "https://a?x", "://"} {
		if got, err := ParseAPIServer(s); err == nil || !strings.Contains(err.Error(), `"`+s+`"`) {
			t.Errorf("%q: got %q, error %v", s, got, err)
		}
	}
}

// dialed dials with a network that goes nowhere. It records which addresses are tried; those in
// failing fail.
func dialed(t *testing.T, d *dialer, failing ...string) (tried []string, c net.Conn, err error) {
	t.Helper()
	d.hello = time.Hour
	d.dial = func(_ context.Context, _, address string) (net.Conn, error) {
		tried = append(tried, address)
		if slices.Contains(failing, address) {
			return nil, errors.New(address + " is dead")
		}
		c, other := net.Pipe()
		t.Cleanup(func() { other.Close() })
		return c, nil
	}
	c, err = d.DialContext(t.Context(), "tcp", d.configured)
	return tried, c, err
}

func TestDialerOrder(t *testing.T) {
	d := newDialer("vip:443", []string{"a:1", "b:1"}, []string{"vip:443", "a:1"})
	d.learn([]string{"c:1"})
	step := func(want, closes string, answered bool, failing ...string) {
		t.Helper()
		tried, c, err := dialed(t, d, failing...)
		if got := strings.Join(tried, " "); got != want || (err == nil) != (len(failing) < 4) {
			t.Errorf("tried %s, want %s; error %v", got, want, err)
		}
		if c == nil {
			return
		}
		if answered {
			d.answers(c)
		}
		if closes != "" {
			must(t, c.Close())
		}
	}
	step("a:1", "closes", true)
	step("a:1 b:1", "closes", true, "a:1")
	step("b:1", "closes", false)                                           // keeps the address, though nothing is answered
	step("c:1", "closes", true)                                            //
	step("c:1 vip:443 a:1", "closes", true, "c:1", "vip:443")              // the oldest failure first
	step("a:1 b:1 c:1 vip:443", "", false, "a:1", "b:1", "c:1", "vip:443") // all addresses are tried
	step("a:1", "closes", true)
}

// Connections to hosts other than the API server, such as a proxy, are not redirected.
func TestDialerOfOthers(t *testing.T) {
	d := newDialer("vip:443", []string{"a:1"}, nil)
	_, _, err := dialed(t, d)
	must(t, err)
	var tried string
	d.dial = func(_ context.Context, _, address string) (net.Conn, error) {
		tried = address
		return nil, errors.New("no")
	}
	if _, err := d.DialContext(t.Context(), "tcp", "proxy:3128"); err == nil || tried != "proxy:3128" {
		t.Errorf("tried %s, error %v", tried, err)
	}
}

func TestLearn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "addresses")
	must(t, os.WriteFile(file, []byte("10.0.0.9:6443\nnonsense\n[fd00::9]:6443\n"), 0o600))
	d := newDialer("vip:443", nil, nil)
	l := newLearning(d, file)
	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, d.addresses()); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	}
	expect("10.0.0.9:6443", "[fd00::9]:6443")
	first := sliceObject("kubernetes", "10.0.0.2:6443", "10.0.0.1:6443", "10.0.0.3:6443")
	first.Endpoints[2].Conditions.Ready = ptr.To(false)
	must(t, l.follow(nil, first))
	expect("10.0.0.1:6443", "10.0.0.2:6443")
	second := sliceObject("kubernetes", "[fd00::1]:6443")
	second.Name, second.AddressType = "kubernetes-2", discovery.AddressTypeIPv6
	second.Ports = append(second.Ports, discovery.EndpointPort{Name: ptr.To("https"), Port: ptr.To[int32](443)})
	must(t, l.follow(nil, second))
	expect("10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:443")
	for _, not := range []*discovery.EndpointSlice{sliceObject("other", "10.1.0.1:80"), sliceObject("kubernetes", "10.1.0.1:80")} {
		if not.Labels[discovery.LabelServiceName] == "kubernetes" {
			not.Namespace = "other"
		}
		must(t, l.follow(nil, not))
	}
	expect("10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:443")
	must(t, l.follow(first, nil))
	expect("[fd00::1]:443")
	must(t, l.follow(second, sliceObject("kubernetes"))) // an API server that reports that there is none
	expect("[fd00::1]:443")
	if got := readAddresses(file); !slices.Equal(got, []string{"[fd00::1]:443"}) {
		t.Errorf("kept %q", got)
	}
}

// The run directory must be readable for readers of the status, whichever file is made first.
func TestAddressFileInAFreshDirectory(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	file := filepath.Join(run, "last-good", "api-servers")
	must(t, newLearning(newDialer("vip:443", nil, nil), file).follow(nil, sliceObject("kubernetes", "10.0.0.1:6443")))
	for path, want := range map[string]os.FileMode{run: 0o755, filepath.Dir(file): 0o700, file: 0o600} {
		info, err := os.Stat(path)
		must(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
}
