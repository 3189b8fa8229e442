// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// netns is a network namespace, and the thread of the test is in it until both end.
type netns struct {
	t  *testing.T
	fd int
}

// newNetns makes one without IPv6 addresses of its own, whose detection of duplicates would go
// on for a second after each change.
func newNetns(t *testing.T) netns {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	for _, conf := range []string{"all", "default"} {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", []byte("1"), 0))
	}
	return netns{t, fd}
}

// run calls fn in the namespace, on a thread that ends with it.
func (n netns) run(fn func()) (ended <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			n.t.Error(err)
			return
		}
		fn()
	}()
	return done
}

// add makes a device and brings it up.
func (n netns) add(link netlink.Link, addrs ...string) netlink.Link {
	n.t.Helper()
	must(n.t, netlink.LinkAdd(link))
	made := n.link(link.Attrs().Name)
	must(n.t, netlink.LinkSetUp(made))
	for _, a := range addrs {
		n.addAddr(made, a)
	}
	return made
}

func (n netns) addVeth(name string, addrs ...string) netlink.Link {
	n.t.Helper()
	n.add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}, addrs...)
	must(n.t, netlink.LinkSetUp(n.link(name+"-peer")))
	// The kernel takes its time to tell that a device has come up.
	for deadline := time.Now().Add(topo.Patient(3 * time.Second)); time.Now().Before(deadline); {
		link, peer := n.link(name), n.link(name+"-peer")
		if link.Attrs().OperState == netlink.OperUp && peer.Attrs().OperState == netlink.OperUp {
			return link
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("%s has no carrier", name)
	return nil
}

func (n netns) link(name string) netlink.Link {
	n.t.Helper()
	link, err := netlink.LinkByName(name)
	must(n.t, err)
	return link
}

func (n netns) addAddr(link netlink.Link, cidr string) {
	n.t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	must(n.t, err)
	must(n.t, netlink.AddrAdd(link, addr))
}

func route(link netlink.Link, cidr, via string) *netlink.Route {
	_, dst, _ := net.ParseCIDR(cidr)
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)}
}
