// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var external = map[string]string{
	"xdp": "waggle_xdp", "tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress",
}

func attachExternal(t *testing.T, d *Datapath, ifindex int) {
	t.Helper()
	must(t, d.AttachXDP(ifindex))
	must(t, d.AttachTC(ifindex, External))
}

func TestAttachRoles(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	ifindex := addVeth(t, "w0", "w1")
	kind := "clsact"
	if hasTCX(t) {
		kind = "tcx"
	}
	for _, tt := range []struct {
		role            Role
		ingress, egress string
	}{
		{External, "waggle_ingress", "waggle_egress"},
		{ExternalL3, "waggle_ingress_l3", "waggle_egress_l3"},
		{Pod, "waggle_pod", "waggle_egress"},
	} {
		must(t, d.AttachTC(ifindex, tt.role))
		expectPrograms(t, d, map[string]string{"tc-ingress": tt.ingress, "tc-egress": tt.egress})
		if status := linksOf(t, d)["tc-ingress"]; status.Kind != kind || status.Device != "w0" || status.Ifindex != ifindex {
			t.Errorf("%v: %+v, want %s on w0", tt.role, status, kind)
		}
	}
	if err := d.AttachTC(ifindex, Role(7)); err == nil {
		t.Error("AttachTC with an unknown role: got no error")
	}
}

func TestAttachXDP(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	ifindex := addVeth(t, "w0", "w1")
	must(t, d.AttachXDP(ifindex))
	expectPrograms(t, d, map[string]string{"xdp": "waggle_xdp"})
	dev, err := netlink.LinkByIndex(ifindex)
	must(t, err)
	if xdp := dev.Attrs().Xdp; xdp.AttachMode != 1 /* XDP_ATTACHED_DRV */ ||
		ebpf.ProgramID(xdp.ProgId) != programID(t, d, "waggle_xdp") {
		t.Errorf("the device says %+v, want our program, in the driver", xdp)
	}
	must(t, d.DetachXDP(ifindex))
	must(t, d.DetachXDP(ifindex))
	expectPrograms(t, d, nil)
}

// A restart swaps the programs inside the same links.
func TestRestartReplacesPrograms(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "eth0.100", "w1")
	d := mustLoad(t, small(dir))
	attachExternal(t, d, ifindex)
	before := linksOf(t, d)
	mustClose(t, d)
	if got := attached(t, ifindex, ebpf.AttachTCXIngress); len(got) != 1 {
		t.Fatalf("with no agent, ingress runs %v, want one program", got)
	}

	d = mustLoad(t, small(dir))
	for hook, status := range linksOf(t, d) {
		if status != before[hook] && status.Program == before[hook].Program {
			t.Errorf("%s: Load has changed %+v to %+v", hook, before[hook], status)
		}
	}
	attachExternal(t, d, ifindex)
	expectPrograms(t, d, external)
	for hook, status := range linksOf(t, d) {
		if status.LinkID != before[hook].LinkID || status.ProgramID == before[hook].ProgramID {
			t.Errorf("%s: before %+v, after %+v, want the same link with another program", hook, before[hook], status)
		}
	}
	if got := attached(t, ifindex, ebpf.AttachTCXEgress); len(got) != 1 {
		t.Errorf("egress runs %v, want one program", got)
	}
}

func TestDetachDevice(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	one, two := addVeth(t, "w0", "w1"), addVeth(t, "w2", "w3")
	attachExternal(t, d, one)
	attachExternal(t, d, two)
	must(t, d.DetachDevice(one))
	must(t, d.DetachDevice(one))
	must(t, d.DetachDevice(123456))
	if got := attached(t, one, ebpf.AttachTCXIngress); len(got) != 0 {
		t.Errorf("ingress still runs %v", got)
	}
	expectPrograms(t, d, external)
	if got := linksOf(t, d)["xdp"].Ifindex; got != two {
		t.Errorf("the link left is on device %d, want %d", got, two)
	}
}

func TestDeviceMadeAnew(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	old := addVeth(t, "w0", "w1")
	attachExternal(t, d, old)
	deleteDevice(t, "w0")
	for hook, status := range linksOf(t, d) {
		if status.Attached || status.Ifindex != 0 || status.Device != "" {
			t.Errorf("%s: the device is gone, but %+v", hook, status)
		}
	}
	// Another device with that name, then another one with that name and index.
	ifindex := addVeth(t, "w0", "w1")
	attachExternal(t, d, ifindex)
	expectPrograms(t, d, external)
	deleteDevice(t, "w0")
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "w0", Index: ifindex}, PeerName: "w1"}))
	attachExternal(t, d, ifindex)
	expectPrograms(t, d, external)
}

// The same directory, used from another network namespace: a device with the same name there is
// another device.
func TestDeviceOfAnotherNetns(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	d := mustLoad(t, small(dir))
	attachExternal(t, d, ifindex)
	before := linksOf(t, d)
	newNetns(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "w0", Index: ifindex}, PeerName: "w1"}))
	for hook, status := range linksOf(t, d) {
		if status.Attached {
			t.Errorf("%s: attached in another namespace, but %+v", hook, status)
		}
	}
	attachExternal(t, d, ifindex)
	expectPrograms(t, d, external)
	if linksOf(t, d)["xdp"].LinkID == before["xdp"].LinkID {
		t.Error("the other namespace's link was kept")
	}
}

func TestLoadSweepsVanishedDevices(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	attachExternal(t, d, addVeth(t, "w0", "w1"))
	mustClose(t, d)
	deleteDevice(t, "w0")
	d = mustLoad(t, small(dir))
	if links, err := d.Links(); err != nil || len(links) != 0 {
		t.Errorf("links: %+v, %v, want none", links, err)
	}
}

func TestAttachToNoDevice(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	if err := d.AttachXDP(4711); !errors.Is(err, unix.ENODEV) {
		t.Errorf("AttachXDP: got %v, want ENODEV", err)
	}
	if err := d.AttachTC(4711, Pod); !errors.Is(err, unix.ENODEV) {
		t.Errorf("AttachTC: got %v, want ENODEV", err)
	}
}

// The device goes after it was found and before the attachment.
func TestDeviceVanishesDuringAttach(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	must(t, d.need(xdpProgram))
	ifindex := addVeth(t, "w0", "w1")
	dev, err := device(ifindex)
	must(t, err)
	deleteDevice(t, "w0")
	_, xdpErr := d.createXDP(dev)
	for what, err := range map[string]error{
		"tcx":    d.attachTCX(dev, d.Program("waggle_ingress"), d.Program("waggle_egress")),
		"clsact": d.attachFilters(dev, "waggle_ingress", "waggle_egress"),
		"xdp":    xdpErr,
	} {
		if err == nil || !errors.Is(explain(dev, what, err), unix.ENODEV) {
			t.Errorf("%s: got %v, want ENODEV", what, explain(dev, what, err))
		}
	}
	expectPrograms(t, d, nil)
}

func TestXDPRefused(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	huge := addVeth(t, "w0", "w1")
	peer, err := netlink.LinkByName("w1")
	must(t, err)
	must(t, netlink.LinkSetMTU(peer, 9000))
	for ifindex, want := range map[int]string{
		ifindexOf(t, "lo"): "does not support XDP",
		huge:               "MTU is too large",
	} {
		if err := d.AttachXDP(ifindex); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AttachXDP: got %v, want the driver's words: %q", err, want)
		}
	}
	expectPrograms(t, d, nil)
}

func TestXDPOfSomebodyElse(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	ifindex := addVeth(t, "w0", "w1")
	other := otherProgram(t, ebpf.XDP, 2 /* XDP_PASS */)
	l, err := link.AttachXDP(link.XDPOptions{Program: other, Interface: ifindex, Flags: link.XDPDriverMode})
	must(t, err)
	defer l.Close()
	err = d.AttachXDP(ifindex)
	if err == nil || !strings.Contains(err.Error(), "somebody_else") || !strings.Contains(err.Error(), "w0") {
		t.Errorf("AttachXDP: got %v, want an error that names the device and its program", err)
	}
	expectPrograms(t, d, nil)
}

func needTCX(t *testing.T) {
	t.Helper()
	if !hasTCX(t) {
		t.Skip("this kernel has no TCX")
	}
}

// Other programs run behind ours, and stay.
func TestTCXOrder(t *testing.T) {
	newNetns(t)
	needTCX(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	other := otherProgram(t, ebpf.SchedCLS, 0 /* TC_ACT_OK */)
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Program: other, Interface: ifindex, Attach: attach})
		must(t, err)
		defer l.Close()
	}
	info, err := other.Info()
	must(t, err)
	otherID, _ := info.ID()
	for range 2 {
		d := mustLoad(t, small(dir))
		must(t, d.AttachTC(ifindex, External))
		for attach, name := range map[ebpf.AttachType]string{
			ebpf.AttachTCXIngress: "waggle_ingress", ebpf.AttachTCXEgress: "waggle_egress",
		} {
			var ids []ebpf.ProgramID
			for _, program := range attached(t, ifindex, attach) {
				ids = append(ids, program.ID)
			}
			if want := []ebpf.ProgramID{programID(t, d, name), otherID}; !slices.Equal(ids, want) {
				t.Errorf("%v runs %v, want %v", attach, ids, want)
			}
		}
		mustClose(t, d)
	}
}

// TestRunsByTCX: a device is asked whether it runs the program of a link.
func TestRunsByTCX(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	ifindex := addVeth(t, "w0", "w1")
	must(t, d.AttachTC(ifindex, External))
	expect := func(when string, s LinkStatus, want bool) {
		t.Helper()
		if runs, err := RunsByTCX(s.Ifindex, s.Hook, s.ProgramID, s.LinkID); err != nil || runs != want {
			t.Errorf("%s: %s runs: %t, %v, want %t", when, s.Hook, runs, err, want)
		}
	}
	links := linksOf(t, d)
	for _, s := range links {
		if s.Kind != KindTCX {
			t.Skip("the kernel has no TCX")
		}
		expect("attached", s, true)
		other := s
		other.ProgramID++
		expect("another program", other, false)
		gone := s
		gone.Ifindex = 1 << 20
		if _, err := RunsByTCX(gone.Ifindex, gone.Hook, gone.ProgramID, gone.LinkID); !errors.Is(err, unix.ENODEV) {
			t.Errorf("a device that is not there: %v, want ENODEV", err)
		}
	}
	if len(links) != 2 {
		t.Errorf("links %v, want two", links)
	}
	must(t, d.DetachDevice(ifindex))
	for _, s := range links {
		expect("detached", s, false)
	}
}
