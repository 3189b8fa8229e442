// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
)

// webServer serves HTTP without TLS.
func webServer(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// A wrong address is named, with its setting and what is wrong with it. The right one is still
// found.
func TestWrongAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		address func(t *testing.T) string
		want    string
	}{
		"no listener":       {deadAddress, "connection refused"},
		"it says nothing":   {hangingAddress, "no answer"},
		"no TLS":            {webServer, "it is no API server: it does not answer with TLS"},
		"another cluster's": {func(t *testing.T) string { return newCluster(t).serve("").address }, "it is no API server of this cluster: x509: "},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.put(nodeObject("10.0.0.1"))
			wrong, right, vip := test.address(t), deadAddress(t), deadAddress(t)
			opts := c.options("")
			opts.APIServers, opts.APIServersBy = []string{wrong, right}, "api-servers"
			f := c.followFromPod(opts, c.pod(vip))
			for _, want := range []string{
				wrong + " (api-servers): " + test.want, right + " (api-servers): connection refused",
				vip + " (the cluster IP of the kubernetes Service, which works only where Services do already): connection refused",
			} {
				f.until(want, func() bool {
					_, why := f.sight.blind()
					return strings.HasPrefix(why, "API server: ") && strings.Contains(why, want)
				})
			}
			if where := f.Location(); !strings.HasPrefix(where, "no API server has answered yet; tried: ") || !strings.Contains(where, wrong+" (api-servers)") {
				t.Errorf("it is at %s", where)
			}
			c.serve(right)
			f.expect("add node node-a", "synced")
			f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })
			if want := "API server " + right + " (api-servers)"; f.Location() != want {
				t.Errorf("it is at %s, want %s", f.Location(), want)
			}
		})
	}
}

// If no address is given, the message describes how to give one, but only while the API server can't
// be reached.
func TestNoAddresses(t *testing.T) {
	c := newCluster(t)
	c.put(nodeObject("10.0.0.1"))
	vip := deadAddress(t)
	opts := c.options("")
	opts.APIServersHow = "api-servers is empty"
	f := c.followFromPod(opts, c.pod(vip))
	f.until("the advice", func() bool {
		_, why := f.sight.blind()
		return strings.HasPrefix(why, "API server: "+vip+" (the cluster IP of the kubernetes Service") && strings.HasSuffix(why, "; api-servers is empty")
	})
	c.serve(vip)
	f.expect("add node node-a", "synced")
	f.until("sees", func() bool { since, _ := f.Blind(); return since.IsZero() })

	opts.APIServers = []string{deadAddress(t)}
	f = c.followFromPod(opts, c.pod(deadAddress(t)))
	f.until("blind", func() bool { _, why := f.Blind(); return strings.HasPrefix(why, "API server: ") })
	if _, why := f.Blind(); strings.Contains(why, opts.APIServersHow) {
		t.Errorf("some are given, but: %s", why)
	}
}

func TestInWords(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for want, err := range map[string]error{
		"the node can't resolve the name: lookup api.example on 10.0.0.2:53: no such host": dial(&net.DNSError{Err: "no such host", Name: "api.example", Server: "10.0.0.2:53", IsNotFound: true}),
		"no answer":                     dial(os.ErrDeadlineExceeded),
		"no route to host":              dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)),
		"connection reset by peer":      &net.OpError{Op: "read", Source: pipeAddr("10.0.0.1:43210"), Err: os.NewSyscallError("read", syscall.ECONNRESET)},
		"address bogus: unknown port":   dial(&net.AddrError{Err: "unknown port", Addr: "bogus"}),
		"it is strange":                 errors.New("it is strange"),
		"it closes the connection: EOF": fmt.Errorf("TLS: %w", io.EOF),
	} {
		if got := inWords(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
	if got := inWords(fmt.Errorf("asking: %w", context.DeadlineExceeded)); got != "no answer" {
		t.Errorf("no answer in time: got %q", got)
	}
}
