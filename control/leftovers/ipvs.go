// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/ipvs"
	"github.com/waggle-lb/waggle/loader/netdump"
)

// IPVSDevice is the device that holds the addresses of services in kube-proxy's IPVS mode.
const IPVSDevice = "kube-ipvs0"

// ipsets are the ipsetInfo of pkg/proxy/ipvs. Those of IPv6 have KUBE-6- in place of KUBE-.
var ipsets = []string{
	"KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL",
	"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-LOCAL",
	"KUBE-LOAD-BALANCER-SOURCE-IP", "KUBE-LOAD-BALANCER-SOURCE-CIDR",
	"KUBE-NODE-PORT-TCP", "KUBE-NODE-PORT-LOCAL-TCP", "KUBE-NODE-PORT-UDP", "KUBE-NODE-PORT-LOCAL-UDP",
	"KUBE-NODE-PORT-SCTP-HASH", "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
	"KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-IPVS-IPS",
}

func seenIPVS() ([]string, error) {
	device, err := findIPVSDevice()
	if device == nil || err != nil {
		return nil, err
	}
	return []string{"device " + IPVSDevice}, nil
}

func findIPVSDevice() (netlink.Link, error) {
	device, err := netlink.LinkByName(IPVSDevice)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the device %s: %w", IPVSDevice, err)
	}
	return device, nil
}

func removeIPVS(r *Report) error {
	device, err := findIPVSDevice()
	if err != nil {
		return err
	}
	var errs []error
	if device != nil {
		errs = append(errs, removeIPVSDevice(r, device))
	}
	if _, err := os.Stat("/sys/module/ip_set"); err == nil { // a query would load the module
		errs = append(errs, removeIPSets(r))
	}
	virtual, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err == nil && strings.Count(string(virtual), "\n") > ipvsHeader {
		r.left("IPVS' virtual servers: kube-proxy's look like any others. If there are no others: ipvsadm --clear")
	}
	return errors.Join(errs...)
}

// removeIPVSDevice removes the device, unless connections need it: IPVS translates packets to addresses of the
// node, and these addresses are on the device.
func removeIPVSDevice(r *Report, device netlink.Link) error {
	using, err := usingDevice(device, ipvs.Each)
	if err != nil {
		return err
	}
	if using > 0 {
		r.left("device %s: IPVS translates %d connections to the addresses that it holds. Repeat the cleanup when they have ended", IPVSDevice, using)
		return nil
	}
	if err := netlink.LinkDel(device); err != nil {
		return fmt.Errorf("remove the device %s: %w", IPVSDevice, err)
	}
	r.removed("device %s", IPVSDevice)
	return nil
}

// usingDevice counts the open connections of a table whose address is on the device.
func usingDevice(device netlink.Link, each func(func(ipvs.Connection)) (bad int, err error)) (using int, err error) {
	held, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(device, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list the addresses of %s: %w", IPVSDevice, err)
	}
	addrs := map[netip.Addr]bool{}
	for _, a := range held {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs[addr.Unmap()] = true
		}
	}
	_, err = each(func(c ipvs.Connection) {
		if addrs[c.Virtual.Addr()] && (c.State == ipvs.Open || c.State == ipvs.HalfClosed) {
			using++
		}
	})
	return using, err
}

// ipvsHeader is the number of lines that /proc/net/ip_vs has without virtual servers.
const ipvsHeader = 3

// removeIPSets removes kube-proxy's IP sets. The rules that use them have to be removed before.
func removeIPSets(r *Report) error {
	have, err := netdump.Whole(netlink.IpsetListAll)
	if err != nil {
		return fmt.Errorf("list IP sets: %w", err)
	}
	ours := map[string]bool{}
	for _, name := range ipsets {
		ours[name] = true
		ours[strings.Replace(name, "KUBE-", "KUBE-6-", 1)] = true
	}
	var errs []error
	for _, set := range have {
		if !ours[set.SetName] {
			continue
		}
		if err := netlink.IpsetDestroy(set.SetName); err != nil {
			errs = append(errs, fmt.Errorf("remove the IP set %s: %w", set.SetName, err))
			continue
		}
		r.removed("IP set %s", set.SetName)
	}
	return errors.Join(errs...)
}
