// SPDX-License-Identifier: Apache-2.0

// Package netnstest gives tests network namespaces of their own, which are gone when the tests end.
package netnstest

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

// Namespace is a network namespace. Its methods other than Run are for the thread that is in it, and end
// the test where they fail.
type Namespace struct {
	t  *testing.T
	fd int
}

// New makes a namespace, and the calling thread is in it until both end; it skips the test if that is
// not root's. The namespace has no IPv6 addresses of its own, whose detection of duplicates would go on
// for a second after each change.
func New(t *testing.T) Namespace {
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
	return Namespace{t, fd}
}

// FD is a file of the namespace, which is closed when the test ends.
func (n Namespace) FD() int { return n.fd }

// Run calls fn in the namespace, on a thread that ends with it. ended is closed after that.
func (n Namespace) Run(fn func()) (ended <-chan struct{}) {
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

// Add makes a device with addresses, as in "10.0.0.1/24", and brings it up.
func (n Namespace) Add(link netlink.Link, addrs ...string) netlink.Link {
	n.t.Helper()
	must(n.t, netlink.LinkAdd(link))
	made := n.Link(link.Attrs().Name)
	must(n.t, netlink.LinkSetUp(made))
	for _, a := range addrs {
		n.AddAddr(made, a)
	}
	return made
}

// AddVeth makes a veth device with addresses, and a peer of the same name with "-peer". Both are up.
func (n Namespace) AddVeth(name string, addrs ...string) netlink.Link {
	n.t.Helper()
	n.Add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}, addrs...)
	must(n.t, netlink.LinkSetUp(n.Link(name+"-peer")))
	// The kernel reports late that a device has come up.
	for deadline := time.Now().Add(topo.Patient(3 * time.Second)); time.Now().Before(deadline); {
		link, peer := n.Link(name), n.Link(name+"-peer")
		if link.Attrs().OperState == netlink.OperUp && peer.Attrs().OperState == netlink.OperUp {
			return link
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("%s has no carrier", name)
	return nil
}

// Link returns the device of a name.
func (n Namespace) Link(name string) netlink.Link {
	n.t.Helper()
	link, err := netlink.LinkByName(name)
	must(n.t, err)
	return link
}

// AddAddr gives a device an address, as in "10.0.0.1/24".
func (n Namespace) AddAddr(link netlink.Link, cidr string) {
	n.t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	must(n.t, err)
	must(n.t, netlink.AddrAdd(link, addr))
}

// Route makes a route by a device, to a destination such as "192.0.2.0/24".
func Route(link netlink.Link, cidr, via string) *netlink.Route {
	_, dst, _ := net.ParseCIDR(cidr)
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)}
}
