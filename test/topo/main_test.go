// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"net/netip"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main()
	if os.Getenv(crashVariable) != "" {
		waitForCrash()
		return
	}
	os.Exit(m.Run())
}

const (
	httpPort = 8080
	udpPort  = 8080
	echoPort = 7
)

func newTestNetwork(t *testing.T, opts Options) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func addTestPod(t *testing.T, node *Node, name string, opts PodOptions) *Pod {
	t.Helper()
	pod, err := node.AddPod(name, opts)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func serve(t *testing.T, h *Host) {
	t.Helper()
	_, err := h.Serve(Ports{HTTP: []uint16{httpPort}, UDP: []uint16{udpPort}, Echo: []uint16{echoPort}})
	if err != nil {
		t.Fatal(err)
	}
}

func newTestClient(t *testing.T, h *Host) *Client {
	t.Helper()
	c, err := h.Client()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func to(addr netip.Addr, port uint16) Request {
	return Request{To: netip.AddrPortFrom(addr, port)}
}
