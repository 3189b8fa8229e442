// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control"
	controlnode "github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// The NodePorts of kube-proxy's tests are outside the usual range.
const nodePortMin, nodePortMax = 3000, 32767

// configuration is what kube-proxy's tests set, as far as it is no object.
type configuration struct {
	nodeName, nodeIP, nodePortAddresses, serviceCIDRs, localDetector string
	masqueradeAll                                                    bool
}

func configurationOf(c recordedCase) configuration {
	return configuration{c.NodeName, c.NodeIP, c.NodePortAddresses, c.ServiceCIDRs, c.LocalDetector, c.MasqueradeAll}
}

// node is a network with waggle's datapath, and a control plane that this test is the source of.
type node struct {
	t *testing.T
	*network
	dp     *loader.Datapath
	cgroup string
	config configuration // in force
	proxy  *control.Proxy
	stop   func()

	services map[string]*v1.Service // that the proxy knows
	slices   map[string]*discovery.EndpointSlice
	opened   int // connections
}

// become makes the case's configuration and objects those in force.
func (n *node) become(c recordedCase) {
	n.t.Helper()
	config := configurationOf(c)
	if n.dp != nil && n.config.masqueradeAll != config.masqueradeAll {
		n.unload()
	}
	if n.dp == nil {
		n.load(config.masqueradeAll)
	}
	changed := n.proxy == nil || n.config != config
	if changed {
		n.startControl(config)
	}
	n.must(n.setPods(podsOf(c)))
	n.must(maps.BumpGeneration(n.dp))
	n.deliver(c)
	if changed {
		n.proxy.OnSynced()
	}
	n.awaitSync()
}

// load loads the datapath, and has it serve this process's sockets.
func (n *node) load(masqueradeAll bool) {
	n.t.Helper()
	n.must(topo.MountBPFFS())
	var err error
	n.dp, err = loader.Load(loader.Options{
		PinDir: pinDir(), Log: quiet(),
		NodePortMin: nodePortMin, NodePortMax: nodePortMax,
		MasqueradeAll: masqueradeAll, SocketLBHost: true,
		MapSizes: map[string]uint32{
			"flows4": 4096, "flows6": 1024, "slots": 1024, "backends": 1024,
			"services4": 1024, "services6": 1024, "service_names": 1024, "sock_flows": 1024,
		},
	})
	n.must(err)
	n.must(n.dp.AttachCgroup(n.cgroup))
}

func (n *node) unload() {
	n.t.Helper()
	if n.stop != nil {
		n.stop()
		n.stop, n.proxy = nil, nil
	}
	if n.dp != nil {
		n.must(n.dp.Close())
		n.dp = nil
		_, err := loader.Cleanup(pinDir(), quiet())
		n.must(err)
	}
}

func pinDir() string { return fmt.Sprintf("/sys/fs/bpf/waggle-replay-%d", os.Getpid()) }

// startControl starts a control plane, which takes over what the one before has left in the maps.
func (n *node) startControl(config configuration) {
	n.t.Helper()
	if n.stop != nil {
		n.stop()
	}
	n.config, n.services, n.slices = config, map[string]*v1.Service{}, map[string]*discovery.EndpointSlice{}
	addresses, err := controlnode.ParseNodePortAddresses(strings.Fields(strings.Trim(config.nodePortAddresses, "[]")))
	n.must(err)
	devices := controlnode.NewDevices(n.dp, controlnode.DeviceOptions{XDP: controlnode.XDPAlways, NodePorts: addresses}, quiet())
	devices.SetNodeIPs([]netip.Addr{netip.MustParseAddr(config.nodeIP)})
	n.must(devices.Sync())
	for _, device := range devices.Status() {
		if device.Name == n.uplink.Attrs().Name && device.XDP != status.XDPNative {
			n.t.Fatalf("device %s has no XDP: %s", device.Name, device.XDP)
		}
	}
	r, err := reconcile.New(n.dp, quiet())
	n.must(err)
	n.must(r.SetLocalSources(prefixes(config.localDetector)))
	n.proxy = control.NewProxy(config.nodeName, r, func(*v1.Node) {}, func() {}, quiet())
	n.proxy.SetNodeIPs(devices.Primary())
	n.proxy.SetAssigned(devices.Assigned())
	n.proxy.OnServiceCIDRs(prefixes(config.serviceCIDRs))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.proxy.Run(ctx)
	}()
	n.stop = func() {
		cancel()
		<-ended
	}
}

// prefixes are the CIDRs in a text.
func prefixes(text string) (out []netip.Prefix) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		if p, err := netip.ParsePrefix(word); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// deliver reports to the proxy how the case's objects differ from those before.
func (n *node) deliver(c recordedCase) {
	services, endpoints := map[string]*v1.Service{}, map[string]*discovery.EndpointSlice{}
	for _, s := range c.Services {
		services[s.Namespace+"/"+s.Name] = s
	}
	for _, s := range c.Slices {
		endpoints[s.Namespace+"/"+s.Name] = s
	}
	forEachChange(n.services, services, n.proxy.OnService)
	forEachChange(n.slices, endpoints, func(before, after *discovery.EndpointSlice) {
		if before == nil || after == nil {
			n.proxy.OnEndpointSlice(before, after)
			return
		}
		source.UpdateSlice(n.proxy, before, after)
	})
	n.services, n.slices = services, endpoints
}

func forEachChange[T any](before, after map[string]*T, report func(before, after *T)) {
	for name, object := range before {
		if after[name] == nil {
			report(object, nil)
		}
	}
	for name, object := range after {
		if !reflect.DeepEqual(before[name], object) {
			report(before[name], object)
		}
	}
}

// awaitSync waits until all that was delivered is in force: for the end of a sync after that. The
// proxy holds one lock for a whole sync and for each delivery, so such a sync has seen everything; and
// there is one, because service CIDRs make one due.
func (n *node) awaitSync() {
	n.t.Helper()
	delivered := time.Now()
	n.proxy.OnServiceCIDRs(prefixes(n.config.serviceCIDRs))
	for deadline := delivered.Add(topo.Patient(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		status := n.proxy.Status()
		if status.LastSync.After(delivered) && len(status.Failures) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the objects don't come into force: %+v", status)
		}
	}
}

// podsOf are the addresses of the node's pods: local endpoints, and pods that send.
func podsOf(c recordedCase) map[netip.Addr]bool {
	pods := map[netip.Addr]bool{}
	for _, slice := range c.Slices {
		for _, e := range slice.Endpoints {
			if e.NodeName != nil && *e.NodeName == c.NodeName {
				pods[netip.MustParseAddr(e.Addresses[0])] = true
			}
		}
	}
	for _, r := range c.Rows {
		if ip := netip.MustParseAddr(r.SourceIP); slices.ContainsFunc(podNetworks, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			pods[ip] = true
		}
	}
	return pods
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}
