// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func clsactOptions(dir string) Options {
	opts := small(dir)
	opts.ForceClsact = true
	return opts
}

func filtersOf(t *testing.T, name string) []netlink.Filter {
	t.Helper()
	dev, err := netlink.LinkByName(name)
	must(t, err)
	filters, err := clsactFilters(dev)
	must(t, err)
	return filters
}

func expectQdisc(t *testing.T, name, want string) {
	t.Helper()
	dev, err := netlink.LinkByName(name)
	must(t, err)
	if got, err := ingressQdisc(dev); err != nil || got != want {
		t.Errorf("%s has the qdisc %q (%v), want %q", name, got, err, want)
	}
}

func TestClsact(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	tc := map[string]string{"tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress"}
	for range 2 { // the second call replaces
		d := mustLoad(t, clsactOptions(dir))
		must(t, d.AttachTC(ifindex, External))
		expectPrograms(t, d, tc)
		if status := linksOf(t, d)["tc-egress"]; status.Kind != "clsact" || status.Device != "w0" {
			t.Errorf("%+v, want clsact on w0", status)
		}
		if got := filtersOf(t, "w0"); len(got) != 2 {
			t.Errorf("filters: %+v, want 2", got)
		}
		mustClose(t, d)
	}
	d := mustLoad(t, clsactOptions(dir))
	must(t, d.AttachTC(ifindex, Pod))
	expectPrograms(t, d, map[string]string{"tc-ingress": "waggle_pod", "tc-egress": "waggle_egress"})
	must(t, d.DetachDevice(ifindex))
	must(t, d.DetachDevice(ifindex))
	expectPrograms(t, d, nil)
	expectQdisc(t, "w0", "")
}

// The switch from clsact to TCX, as after the removal of an option, and back.
func TestClsactToTCX(t *testing.T) {
	newNetns(t)
	needTCX(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	tc := map[string]string{"tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress"}
	for _, opts := range []Options{clsactOptions(dir), small(dir), clsactOptions(dir)} {
		d := mustLoad(t, opts)
		must(t, d.AttachTC(ifindex, External))
		expectPrograms(t, d, tc)
		if opts.ForceClsact {
			if got := attached(t, ifindex, ebpf.AttachTCXIngress); len(got) != 0 {
				t.Errorf("TCX still runs %v", got)
			}
		} else {
			expectQdisc(t, "w0", "")
		}
		mustClose(t, d)
	}
}

func TestClsactOfSomebodyElse(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	dev, err := netlink.LinkByIndex(ifindex)
	must(t, err)
	must(t, netlink.QdiscAdd(clsactOf(dev)))
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 2},
		Fd: otherProgram(t, ebpf.SchedCLS, 0).FD(), Name: "somebody_else", DirectAction: true,
	}))
	d := mustLoad(t, clsactOptions(dir))
	must(t, d.AttachTC(ifindex, External))
	if got := filtersOf(t, "w0"); len(got) != 3 {
		t.Errorf("filters: %+v, want 3", got)
	}
	// Filters of another pin directory are not ours either.
	if removed, err := Cleanup(dir+"-other", quiet()); err != nil || len(removed) != 0 {
		t.Errorf("Cleanup of another directory removed %v, %v", removed, err)
	}
	must(t, d.DetachDevice(ifindex))
	if got := filtersOf(t, "w0"); len(got) != 1 {
		t.Errorf("filters: %+v, want only the other program's", got)
	}
	expectQdisc(t, "w0", "clsact")
}

func TestClsactRefused(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, clsactOptions(newPinDir(t)))
	old := addVeth(t, "w0", "w1")
	must(t, netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: old, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}))
	if err := d.AttachTC(old, External); err == nil || !strings.Contains(err.Error(), "tc qdisc del dev w0 ingress") {
		t.Errorf("device with an ingress qdisc: got %v, want an error with the cure", err)
	}
	taken := addVeth(t, "w2", "w3")
	dev, err := netlink.LinkByIndex(taken)
	must(t, err)
	must(t, netlink.QdiscAdd(clsactOf(dev)))
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: taken, Parent: netlink.HANDLE_MIN_INGRESS,
			Protocol: unix.ETH_P_IP, Priority: filterPriority},
		Fd: otherProgram(t, ebpf.SchedCLS, 0).FD(), Name: "somebody_else", DirectAction: true,
	}))
	if err := d.AttachTC(taken, External); err == nil || !strings.Contains(err.Error(), "tc filter show dev w2") {
		t.Errorf("priority taken: got %v, want an error that says where to look", err)
	}
	if got := filtersOf(t, "w2"); len(got) != 1 {
		t.Errorf("filters after the failure: %+v, want only the other program's", got)
	}
	expectPrograms(t, d, nil)
}
