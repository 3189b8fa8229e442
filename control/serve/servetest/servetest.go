// SPDX-License-Identifier: Apache-2.0

// Package servetest sends requests to an agent's HTTP servers in tests.
package servetest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// Get returns the status, body and header of an answer; the status is 0 if there is no answer.
func Get(address, path string) (status int, body string, header http.Header) {
	client := http.Client{Timeout: topo.Patient(5 * time.Second), Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error(), nil
	}
	return r.StatusCode, string(raw), r.Header
}

// AwaitStatus waits for an answer with a status, and returns its body and header.
func AwaitStatus(t *testing.T, address, path string, want int) (body string, header http.Header) {
	t.Helper()
	await.Until(t, func() (string, bool) {
		var status int
		status, body, header = Get(address, path)
		return fmt.Sprintf("http://%s%s answers %d: %s\nwant %d", address, path, status, body, want), status == want
	})
	return body, header
}

// FreeAddress finds a loopback address with a free port.
func FreeAddress(t *testing.T) string {
	t.Helper()
	l := Occupy(t, "127.0.0.1:0")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// Occupy listens on an address until the test ends, or the listener is closed.
func Occupy(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
