// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader"
)

// An agent with another pin directory doesn't start on a node with a device that is served already, and
// touches nothing. Where it is to ignore that device it may. A device that comes to be served later is
// left alone, with a problem that names both.
func TestOtherAgent(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	eth := f.addVeth("eth0", "10.0.0.1/24")
	must(t, f.dp.AttachTC(eth.Attrs().Index, loader.External))
	must(t, netlink.LinkSetUp(f.link("lo"))) // where agents listen
	other := f.dir + "-other"
	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, loader.ErrServed) || !strings.Contains(err.Error(), "device eth0: ") || !strings.Contains(err.Error(), "--pin-dir "+f.dir) {
			t.Errorf("got %v, want %v with the device and the pin directory %s", err, loader.ErrServed, f.dir)
		}
	}
	_, err := NewAgent(Config{NodeName: thisNode, Loader: loader.Options{PinDir: other, Log: quiet()}}, &testSource{}, quiet())
	refused(err)
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s has been made (%v)", other, err)
	}

	a := newAgentFixture(t, &testSource{}, func(c *Config) { c.Rules = DeviceRules{Ignore: []string{"eth*"}} })
	t.Cleanup(func() { must(t, a.dp.Close()) })
	a.devices.rules.Ignore = []string{"*-peer"}
	a.devices.SetNodeIPs(nil)
	refused(a.devices.Sync())
	if devices := a.devices.Status(); len(devices) > 0 {
		t.Errorf("it serves %+v", devices)
	}
}
