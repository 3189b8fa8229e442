// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"strings"
	"testing"
)

// expectRefused expects an error that names the device and the other pin directory.
func expectRefused(t *testing.T, err error, device, dir string) {
	t.Helper()
	if !errors.Is(err, ErrServed) || !strings.Contains(err.Error(), "device "+device+":") || !strings.Contains(err.Error(), "--pin-dir "+dir+")") {
		t.Errorf("got %v, want %v, with %s and %s", err, ErrServed, device, dir)
	}
}

// Two agents with different pin directories don't serve one device, by whichever hooks the first
// serves it, and whether it still runs or not.
func TestOtherPinDirectory(t *testing.T) {
	for name, attach := range map[string]func(t *testing.T, d *Datapath, ifindex int){
		"tc":     func(t *testing.T, d *Datapath, ifindex int) { must(t, d.AttachTC(ifindex, Pod)) },
		"xdp":    func(t *testing.T, d *Datapath, ifindex int) { must(t, d.AttachXDP(ifindex)) },
		"clsact": func(t *testing.T, d *Datapath, ifindex int) { d.clsact = true; must(t, d.AttachTC(ifindex, External)) },
	} {
		t.Run(name, func(t *testing.T) {
			newNetns(t)
			served, free := addVeth(t, "w0", "w1"), addVeth(t, "w2", "w3")
			one, two := newPinDir(t), newPinDir(t)
			first, second := mustLoad(t, small(one)), mustLoad(t, small(two))
			none := func(string) bool { return false }
			must(t, CheckDevices(two, none))
			attach(t, first, served)
			for range 2 {
				expectRefused(t, CheckDevices(two, none), "w0", one)
				expectRefused(t, second.AttachTC(served, External), "w0", one)
				mustClose(t, first)
			}
			must(t, CheckDevices(two, func(device string) bool { return device == "w0" }))
			must(t, CheckDevices(one, none))
			must(t, second.AttachTC(free, External))
			if got := linksOf(t, second); len(got) != 2 || got["tc-ingress"].Device != "w2" {
				t.Errorf("the second has %+v, want w2 alone", got)
			}
			if _, err := Cleanup(one, quiet()); err != nil {
				t.Fatal(err)
			}
			must(t, CheckDevices(two, none))
			must(t, second.AttachTC(served, External))
		})
	}
}
