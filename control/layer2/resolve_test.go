// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// place is where the laptop and a node meet: their devices there.
type place struct {
	name           string
	xdp            bool
	device, client string
	make           func(t *testing.T, n *topo.Network)
}

var places = []place{
	{name: "xdp", xdp: true, device: "eth0", client: "eth0"},
	{name: "tc", device: "eth0", client: "eth0"},
	{name: "bridge", device: "br0", client: "eth0", make: onBridge},
	{name: "vlan", device: "eth0.7", client: "eth0.7", make: onVLAN},
}

// onBridge moves the node's addresses to a bridge over its device.
func onBridge(t *testing.T, n *topo.Network) {
	node := n.Nodes[0]
	for _, p := range []netip.Prefix{netip.PrefixFrom(node.IP4, 24), netip.PrefixFrom(node.IP6, 64)} {
		must(t, node.DelAddr("eth0", p))
	}
	must(t, node.AddBridge("br0", netip.PrefixFrom(node.IP4, 24), netip.PrefixFrom(node.IP6, 64)))
	must(t, node.SetMaster("eth0", "br0"))
	must(t, node.AwaitCarrier("br0"))
}

// onVLAN gives the node and the laptop a tagged network, and takes the addresses away from the other one.
func onVLAN(t *testing.T, n *topo.Network) {
	for _, h := range []*topo.Host{n.Laptop, n.Nodes[0].Host} {
		eth0, err := h.Link("eth0")
		must(t, err)
		vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.7", ParentIndex: eth0.Attrs().Index}, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err := h.Netlink().LinkAdd(vlan); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("the kernel has no VLAN devices (CONFIG_VLAN_8021Q)")
		} else if err != nil {
			t.Fatal(err)
		}
		must(t, h.SetUp("eth0.7"))
		for _, p := range []netip.Prefix{netip.PrefixFrom(h.IP4, 24), netip.PrefixFrom(h.IP6, 64)} {
			must(t, h.DelAddr("eth0", p))
			must(t, h.AddAddr("eth0.7", p))
		}
		must(t, h.AwaitCarrier("eth0.7"))
	}
	impatient(t, n.Laptop, "eth0.7")
}

// TestResolved: a client's kernel finds the address where it is held, and as long as the node may answer.
func TestResolved(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			opts := topo.Defaults()
			if p.xdp {
				opts = topo.ForXDP()
			}
			n := newNetwork(t, opts)
			if p.make != nil {
				p.make(t, n)
			}
			h := newHolder(t, n.Nodes[0], p.device, p.xdp)
			p.expectSilence(t, n, "before the address is held")
			must(t, h.Extend(forLong))
			h.hold(vips...)
			p.expectHolder(t, n, h)
			p.expectWitnesses(t, n, h)
			p.expectDuplicate(t, n)

			must(t, h.Extend(time.Millisecond)) // and dies
			eventually(t, "over", func() bool { left, err := h.Remaining(); return err == nil && left == 0 })
			for _, a := range vips {
				answered := h.counts(a).Answered
				expectMAC(t, "after the node's time", resolve(t, n.Laptop, p.client, a), nil)
				if c := h.counts(a); c.Answered != answered || c.Lapsed == 0 {
					t.Errorf("%s: %+v, before it lapsed %d were answered", a, c, answered)
				}
			}
			must(t, errors.Join(h.Drop(), h.Extend(forLong)))
			h.hold(vips...)
			p.expectHolder(t, n, h)
			for _, a := range vips {
				h.do(func() error { return h.Release(a) })
			}
			p.expectSilence(t, n, "after it is released")
		})
	}
}

func (p place) expectSilence(t *testing.T, n *topo.Network, when string) {
	t.Helper()
	for _, a := range vips {
		expectMAC(t, a.String()+", "+when, resolve(t, n.Laptop, p.client, a), nil)
	}
}

// expectHolder resolves the addresses, and has the laptop's kernel ask once more, by frames for the holder alone.
func (p place) expectHolder(t *testing.T, n *topo.Network, h *holder) {
	t.Helper()
	link, err := n.Laptop.Link(p.client)
	must(t, err)
	for _, a := range vips {
		expectMAC(t, a.String(), resolve(t, n.Laptop, p.client, a), h.mac)
		answered := h.counts(a).Answered
		if answered == 0 {
			t.Errorf("%s: no question was answered by the programs", a)
		}
		must(t, n.Laptop.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: family(a), IP: a.AsSlice(), HardwareAddr: h.mac, State: unix.NUD_PROBE,
		}))
		eventually(t, a.String()+" confirmed", func() bool {
			entry := neighbour(t, n.Laptop, p.client, a)
			return entry != nil && entry.State == unix.NUD_REACHABLE && h.counts(a).Answered > answered
		})
	}
}

// expectWitnesses has programs other than the kernel ask, if they are installed.
func (p place) expectWitnesses(t *testing.T, n *topo.Network, h *holder) {
	t.Helper()
	for _, witness := range [][]string{
		{"arping", "-c", "1", "-w", "5", "-i", p.client, vip4.String()},
		{"ndisc6", "-1", "-r", "3", vip6.String(), p.client},
	} {
		path, err := exec.LookPath(witness[0])
		if err != nil {
			t.Logf("%s is not installed (Debian has a package of that name)", witness[0])
			continue
		}
		out, err := n.Laptop.Command(path, witness[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(strings.ToLower(string(out)), h.mac.String()) {
			t.Errorf("%v: %v, and no %s in:\n%s", witness, err, h.mac, out)
		}
	}
}

// expectDuplicate: a host that wants to have the address hears that there is one that has it (RFC 4862).
func (p place) expectDuplicate(t *testing.T, n *topo.Network) {
	t.Helper()
	link, err := n.Laptop.Link(p.client)
	must(t, err)
	must(t, n.Laptop.Do(func() error {
		conf := "/proc/sys/net/ipv6/conf/" + p.client
		return errors.Join(os.WriteFile(conf+"/accept_dad", []byte("1"), 0), os.WriteFile(conf+"/dad_transmits", []byte("1"), 0))
	}))
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(vip6.AsSlice())}
	must(t, n.Laptop.Netlink().AddrAdd(link, addr))
	eventually(t, "a duplicate", func() bool {
		list, err := n.Laptop.Netlink().AddrList(link, unix.AF_INET6)
		must(t, err)
		for _, a := range list {
			if a.IP.Equal(vip6.AsSlice()) && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				t.Fatalf("the laptop takes %s for its own", vip6)
			} else if a.IP.Equal(vip6.AsSlice()) {
				return a.Flags&unix.IFA_F_DADFAILED != 0
			}
		}
		return false
	})
	must(t, n.Laptop.Netlink().AddrDel(link, addr))
}
