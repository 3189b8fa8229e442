// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

func TestMain(m *testing.M) {
	topo.Main()
	os.Exit(m.Run())
}

// Addresses of load balancers on the Ethernet of the nodes.
var (
	vip4  = netip.MustParseAddr("192.168.1.240")
	vip6  = netip.MustParseAddr("fd00:192:168:1::240")
	vips  = []netip.Addr{vip4, vip6}
	never = netip.MustParseAddr("192.168.1.241") // no host has it
)

// forLong is a lifetime that does not end within a test.
const forLong = time.Hour

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newNetwork makes two nodes and a laptop on one Ethernet. The laptop's kernel gives up early to ask for a MAC.
func newNetwork(t *testing.T, opts topo.Options) *topo.Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	n, err := topo.New(opts)
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	impatient(t, n.Laptop, "eth0")
	return n
}

func impatient(t *testing.T, h *topo.Host, device string) {
	t.Helper()
	must(t, h.Do(func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			path := fmt.Sprintf("/proc/sys/net/%s/neigh/%s/retrans_time_ms", family, device)
			if err := os.WriteFile(path, []byte("100"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
}

// holder is a node with the datapath on one of its devices.
type holder struct {
	*Wire
	t       *testing.T
	node    *topo.Node
	dp      *loader.Datapath
	device  string
	ifindex int
	mac     net.HardwareAddr
}

// newHolder attaches the programs to a device of a node.
func newHolder(t *testing.T, node *topo.Node, device string, xdp bool) *holder {
	t.Helper()
	dp, _ := loadertest.Load(t)
	link, err := node.Link(device)
	must(t, err)
	h := &holder{New(dp, loadertest.Quiet()), t, node, dp, device, link.Attrs().Index, link.Attrs().HardwareAddr}
	h.do(func() error {
		if err := dp.AttachTC(h.ifindex, loader.External); err != nil {
			return err
		}
		if xdp {
			if err := dp.AttachXDP(h.ifindex); err != nil {
				return err
			}
		}
		return maps.NewDevices(dp).Put(h.ifindex, maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true})
	})
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// do runs fn in the node's network namespace.
func (h *holder) do(fn func() error) {
	h.t.Helper()
	must(h.t, h.node.Do(fn))
}

func (h *holder) hold(addrs ...netip.Addr) {
	h.t.Helper()
	h.do(func() error {
		for _, a := range addrs {
			if err := h.Hold(a, []int{h.ifindex}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *holder) counts(a netip.Addr) maps.Announcement {
	h.t.Helper()
	all, err := maps.NewAnnounced(h.dp).All()
	must(h.t, err)
	return all[maps.Place{Addr: a, Ifindex: h.ifindex}]
}

// neighbour is a host's own entry for an address; nil: it has none.
func neighbour(t *testing.T, h *topo.Host, device string, a netip.Addr) *netlink.Neigh {
	t.Helper()
	link, err := h.Link(device)
	must(t, err)
	list, err := h.Netlink().NeighList(link.Attrs().Index, family(a))
	must(t, err)
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
			return &n
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// resolve has a host's kernel ask for an address anew, and returns the MAC that it finds; nil: it gives up.
func resolve(t *testing.T, h *topo.Host, device string, a netip.Addr) net.HardwareAddr {
	t.Helper()
	link, err := h.Link(device)
	must(t, err)
	entry := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family(a), IP: a.AsSlice(), State: unix.NUD_NONE}
	_ = h.Netlink().NeighDel(entry) // it may have none
	must(t, h.Do(func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte{0})
		return err
	}))
	for deadline := time.Now().Add(topo.Patient(10 * time.Second)); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		n := neighbour(t, h, device, a)
		switch {
		case n == nil || n.State&(unix.NUD_INCOMPLETE|unix.NUD_NONE) != 0:
		case n.State&unix.NUD_FAILED != 0:
			return nil
		default:
			return n.HardwareAddr
		}
	}
	t.Fatalf("%s goes on asking for %s", h.Name, a)
	return nil
}

func expectMAC(t *testing.T, what string, got, want net.HardwareAddr) {
	t.Helper()
	if got.String() != want.String() {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(topo.Patient(10 * time.Second)); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
	}
}

// groupsOf are the IPv6 multicast groups that a host is in on a device, as hexadecimal digits.
func groupsOf(t *testing.T, h *topo.Host, device string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	must(t, h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/igmp6")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[1] == device {
				out[f[2]] = true
			}
		}
		return err
	}))
	return out
}
