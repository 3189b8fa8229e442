// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
)

// An agent with another pin directory doesn't start on a node with a device that is served already, and
// touches nothing. Where it is to ignore that device it may.
func TestOtherAgent(t *testing.T) {
	n := netnstest.New(t)
	eth := n.AddVeth("eth0", "10.0.0.1/24")
	dp, dir := loadertest.Load(t)
	must(t, dp.AttachTC(eth.Attrs().Index, loader.External))
	other := dir + "-other"
	_, err := NewAgent(Config{NodeName: thisNode, Loader: loader.Options{PinDir: other, Log: loadertest.Quiet()}}, &testSource{}, loadertest.Quiet())
	if !errors.Is(err, loader.ErrServed) || !strings.Contains(err.Error(), "device eth0: ") || !strings.Contains(err.Error(), "--pin-dir "+dir) {
		t.Errorf("got %v, want %v with the device and the pin directory %s", err, loader.ErrServed, dir)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s has been made (%v)", other, err)
	}

	must(t, netlink.LinkSetUp(n.Link("lo"))) // where agents listen
	a := newAgentFixture(t, &testSource{}, func(c *Config) { c.Rules = node.DeviceRules{Ignore: []string{"eth*"}} })
	must(t, a.dp.Close())
}
