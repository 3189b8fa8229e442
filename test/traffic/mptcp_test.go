// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"os"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestMPTCP, of contract 59: an application with an MPTCP socket sees the service's address, like
// one with a TCP socket.
func TestMPTCP(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/mptcp"); err != nil {
		t.Skip("the kernel has no MPTCP")
	}
	s, c, services := twoServices(t, modes[1])
	all := map[string]*topo.Client{"pod": c.inside, "node": client(t, s.Nodes[0].Host)}
	for _, svc := range services {
		for name, from := range all {
			for _, v6 := range bothFamilies {
				to := svc.clusterIP(echo, v6)
				reply := from.Echo(topo.Request{To: to, MPTCP: true, Size: 1000})
				if !reply.OK() || reply.Pod != svc.name || reply.Peer != to {
					t.Errorf("%s to %s: %s, want %s and its address", name, to, reply, svc.name)
				}
			}
		}
	}
}
