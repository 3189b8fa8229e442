// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// newNetns gives the test a thread in a network namespace of its own. The thread ends with it.
func newNetns(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread()
	must(t, unix.Unshare(unix.CLONE_NEWNET))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addDevice makes one end of a veth pair, or a bridge, that is up.
func addDevice(t *testing.T, link netlink.Link) int {
	t.Helper()
	must(t, netlink.LinkAdd(link))
	must(t, netlink.LinkSetUp(link))
	made, err := netlink.LinkByName(link.Attrs().Name)
	must(t, err)
	return made.Attrs().Index
}

func veth(name string, master int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, master
	return &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}
}

func addrOf(t *testing.T, s string) bpf.Addr {
	t.Helper()
	var a bpf.Addr
	ip := net.ParseIP(s)
	if v4 := ip.To4(); v4 != nil {
		a.Word[0] = binary.NativeEndian.Uint32(v4)
		return a
	}
	for i := range a.Word {
		a.Word[i] = binary.NativeEndian.Uint32(ip[4*i:])
	}
	return a
}

// TestZones: packets come in from a pod if the route back leads by a pod's device, or by a bridge to
// such a port.
func TestZones(t *testing.T) {
	newNetns(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	bridge := addDevice(t, &netlink.Bridge{LinkAttrs: attrs})
	byItself, port, other := addDevice(t, veth("v0", 0)), addDevice(t, veth("v1", bridge)), addDevice(t, veth("v2", bridge))
	for dst, device := range map[string]int{
		"10.0.0.2/32": byItself, "fd00::2/128": byItself, "10.1.0.0/24": bridge, "fd00:1::/64": bridge,
	} {
		_, to, err := net.ParseCIDR(dst)
		must(t, err)
		must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: device, Dst: to, Scope: netlink.SCOPE_LINK}))
	}
	for ip, at := range map[string]int{"10.1.0.2": port, "fd00:1::2": port, "10.1.0.3": other} {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, byte(at)}
		family := unix.AF_INET6
		if net.ParseIP(ip).To4() != nil {
			family = unix.AF_INET
		}
		must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge, Family: family, IP: net.ParseIP(ip), HardwareAddr: mac, State: netlink.NUD_PERMANENT}))
		must(t, netlink.NeighAppend(&netlink.Neigh{LinkIndex: at, Family: unix.AF_BRIDGE, HardwareAddr: mac, Flags: netlink.NTF_MASTER, State: netlink.NUD_PERMANENT}))
	}
	z := newZones(map[int]bool{byItself: true, port: true})
	for ip, want := range map[string]bpf.Zone{
		"10.0.0.2": bpf.ZonePod, "fd00::2": bpf.ZonePod, "10.1.0.2": bpf.ZonePod, "fd00:1::2": bpf.ZonePod,
		"10.1.0.3": bpf.ZoneOutside, "10.1.0.4": bpf.ZoneOutside, "192.0.2.1": bpf.ZoneOutside, "2001:db8::1": bpf.ZoneOutside,
	} {
		family := uint32(unix.AF_INET6)
		if net.ParseIP(ip).To4() != nil {
			family = unix.AF_INET
		}
		if got := z.of(family, addrOf(t, ip)); got != want {
			t.Errorf("packets of %s come in by the zone %s, want %s", ip, bpf.ZoneName(got), bpf.ZoneName(want))
		}
	}
}
