// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/control/status"
)

// setTxChecksum does what `ethtool -K DEVICE tx on` (or off) does.
func setTxChecksum(t *testing.T, device string, on bool) {
	t.Helper()
	value := &ethtoolValue{command: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	must(t, ethtool(device, value))
}

// addXDPVeth makes a veth device that can run XDP.
func (f *devicesFixture) addXDPVeth(name string, addrs ...string) netlink.Link {
	f.t.Helper()
	link := f.AddVeth(name, addrs...)
	setTxChecksum(f.t, name+"-peer", false)
	return link
}

// With --xdp=always a veth device has XDP as long as its peer leaves no checksum to the device.
func TestPeerLeavesChecksums(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPAlways)
	eth := f.AddVeth("eth0", "10.0.0.1/24")
	must(t, netlink.RouteAdd(netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")))
	f.SetNodeIPs(nil)
	const without, with = "eth0 external: " + tcHooks, "eth0 external: " + tcHooks + " xdp"
	expect := func(want, why string) {
		t.Helper()
		must(t, f.Repair())
		f.sync()
		f.expect(want)
		if got := f.Status()[0].XDP; !strings.Contains(got, why) {
			t.Errorf("XDP is %q, want %q", got, why)
		}
		if notices := f.Notices(); len(notices) > 0 {
			t.Errorf("notices %q", notices)
		}
	}
	const refused = "its peer leaves checksums to the device, and packets that XDP sends on would be lost: ethtool -K eth0-peer tx off"
	expect(without, refused)
	f.expectTransmitting()
	setTxChecksum(t, "eth0-peer", false)
	expect(with, status.XDPNative)
	f.expectTransmitting("eth0")
	setTxChecksum(t, "eth0-peer", true)
	expect(without, refused)
	f.expectTransmitting()
}

// The peer is in another namespace. If a process is in that namespace the peer is inspected;
// otherwise a notice says what to check.
func TestPeerElsewhere(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{}, XDPAlways)
	eth := f.AddVeth("eth0", "10.0.0.1/24")
	f.moveOut("eth0-peer")
	must(t, netlink.RouteAdd(netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")))
	f.SetNodeIPs(nil)
	f.sync()
	f.expect("eth0 external: " + tcHooks + " xdp")
	unseen := func(n string) bool {
		return strings.HasPrefix(n, "device eth0, xdp: its peer can't be inspected (no process is in its network namespace)")
	}
	if notices := f.Notices(); !slices.ContainsFunc(notices, unseen) {
		t.Errorf("notices %q", notices)
	}

	process := exec.Command("sleep", "600")
	<-f.elsewhere.Run(func() {
		if err := process.Start(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	must(t, f.Repair())
	f.sync()
	f.expect("eth0 external: " + tcHooks)
	<-f.elsewhere.Run(func() { setTxChecksum(t, "eth0-peer", false) })
	must(t, f.Repair())
	f.sync()
	f.expect("eth0 external: " + tcHooks + " xdp")
	if notices := f.Notices(); len(notices) > 0 {
		t.Errorf("notices %q", notices)
	}
}
