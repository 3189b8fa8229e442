// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// The parts of a bundle that are about the node, not about waggle.

func writeLinks(_ *bundle, w io.Writer) error {
	links, err := netdump.Whole(netlink.LinkList)
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintf(w, "%d: %s (%s) mtu %d, flags %s, state %s, mac %s, master %d, parent %d, peer namespace %d, alias %q\n",
			a.Index, a.Name, l.Type(), a.MTU, a.Flags, a.OperState, a.HardwareAddr, a.MasterIndex, a.ParentIndex, a.NetNsID, a.Alias)
		if a.Xdp != nil && a.Xdp.Attached {
			fmt.Fprintf(w, "    XDP program %d, mode %d\n", a.Xdp.ProgId, a.Xdp.AttachMode)
		}
	}
	return err
}

func writeAddresses(_ *bundle, w io.Writer) error {
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	for _, a := range addrs {
		fmt.Fprintf(w, "%d: %s scope %s, flags %#x\n", a.LinkIndex, a.IPNet, netlink.Scope(a.Scope), a.Flags)
	}
	return err
}

var ipFamilies = []int{unix.AF_INET, unix.AF_INET6}

func writeRoutes(_ *bundle, w io.Writer) error {
	for _, family := range ipFamilies {
		routes, err := netdump.Whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return err
		}
		for _, r := range routes {
			if _, err := fmt.Fprintf(w, "%s, type %d, protocol %d, MTU %d, encapsulated %v\n", r, r.Type, r.Protocol, r.MTU, r.Encap != nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeRules(_ *bundle, w io.Writer) error {
	for _, family := range ipFamilies {
		rules, err := netdump.Whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil {
			return err
		}
		for _, r := range rules {
			fmt.Fprintf(w, "family %d: %s, mark %#x, in %q, out %q, invert %v\n", family, r, r.Mark, r.IifName, r.OifName, r.Invert)
		}
	}
	return nil
}

func writeNeighbours(_ *bundle, w io.Writer) error {
	for _, family := range ipFamilies {
		all, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
		if err != nil {
			return err
		}
		for _, n := range all {
			if _, err := fmt.Fprintf(w, "%d: %s at %s, state %#x\n", n.LinkIndex, n.IP, n.HardwareAddr, n.State); err != nil {
				return err
			}
		}
	}
	return nil
}

// kernelOptions are options of the kernel's configuration that decide what waggle and other programs on the node can
// do.
var kernelOptions = []string{
	"BPF_SYSCALL", "BPF_JIT", "BPF_JIT_ALWAYS_ON", "BPF_UNPRIV_DEFAULT_OFF", "BPF_LSM", "CGROUP_BPF", "DEBUG_INFO_BTF", "MODULES",
	"NET_CLS_ACT", "NET_CLS_BPF", "NET_SCH_INGRESS", "NET_XGRESS", "XDP_SOCKETS", "LWTUNNEL", "LWTUNNEL_BPF",
	"IP_MULTIPLE_TABLES", "IP_ROUTE_MULTIPATH", "IPV6", "IPV6_MULTIPLE_TABLES", "MPTCP", "IP_SCTP",
	"NF_CONNTRACK", "NF_CT_NETLINK", "NF_TABLES", "IP_NF_IPTABLES", "IP6_NF_IPTABLES", "IP_VS", "BRIDGE_NETFILTER",
	"VETH", "BRIDGE", "VXLAN", "GENEVE", "WIREGUARD", "NET_IPIP", "XFRM", "HZ", "PREEMPT", "PREEMPT_RT", "MEMCG",
	"SECURITY_LOCKDOWN_LSM", "LSM",
}

// kernelParameters are files below /proc/sys, as patterns.
var kernelParameters = []string{
	"kernel/unprivileged_bpf_disabled", "net/core/bpf_jit_*", "net/core/default_qdisc", "net/ipv4/ip_forward", "net/ipv4/ip_local_port_range",
	"net/ipv4/ip_local_reserved_ports", "net/ipv4/fib_multipath_hash_policy", "net/ipv4/conf/*/rp_filter", "net/ipv4/conf/*/forwarding",
	"net/ipv4/conf/*/accept_local", "net/ipv4/conf/*/route_localnet", "net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/disable_ipv6",
	"net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_tcp_be_liberal",
	"net/bridge/bridge-nf-call-*tables",
}

func writeKernel(_ *bundle, w io.Writer) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s %s %s %s\n", unix.ByteSliceToString(name.Sysname[:]), unix.ByteSliceToString(name.Release[:]),
		unix.ByteSliceToString(name.Version[:]), unix.ByteSliceToString(name.Machine[:]))
	for _, file := range []string{"/sys/kernel/security/lsm", "/sys/kernel/security/lockdown", "/sys/devices/system/cpu/online"} {
		writeValue(w, file, file)
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	fmt.Fprintf(w, "type information: %v\n", err == nil)
	for _, pattern := range kernelParameters {
		files, _ := filepath.Glob("/proc/sys/" + pattern)
		for _, file := range files {
			writeValue(w, strings.ReplaceAll(strings.TrimPrefix(file, "/proc/sys/"), "/", "."), file)
		}
	}
	return errors.Join(writeMounts(w), writeKernelOptions(w, unix.ByteSliceToString(name.Release[:])))
}

// writeValue writes the contents of a file of the kernel, if the file exists.
func writeValue(w io.Writer, name, file string) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	value := strings.TrimSpace(string(raw))
	if err != nil {
		value = err.Error()
	}
	fmt.Fprintf(w, "%s: %s\n", name, value)
}

// writeMounts writes the mounts that waggle uses.
func writeMounts(w io.Writer) error {
	raw, err := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 3 && slices.Contains([]string{"bpf", "cgroup", "cgroup2"}, f[2]) {
			fmt.Fprintf(w, "mounted: %s at %s (%s)\n", f[2], f[1], f[3])
		}
	}
	return err
}

func writeKernelOptions(w io.Writer, release string) error {
	options, err := openKernelOptions(release)
	if err != nil {
		return err
	}
	defer options.Close()
	for lines := bufio.NewScanner(options); lines.Scan(); {
		option, value, is := strings.Cut(lines.Text(), "=")
		option = strings.TrimPrefix(option, "CONFIG_")
		if is && slices.Contains(kernelOptions, option) {
			fmt.Fprintf(w, "CONFIG_%s=%s\n", option, value)
		}
	}
	return nil
}

// openKernelOptions opens the kernel's configuration, from the kernel or from the distribution.
func openKernelOptions(release string) (io.ReadCloser, error) {
	file, err := os.Open("/proc/config.gz")
	if err == nil {
		unpacked, err := gzip.NewReader(file)
		return gzipped{unpacked, file}, err
	}
	for _, path := range []string{"/boot/config-" + release, "/lib/modules/" + release + "/config"} {
		file, err2 := os.Open(path)
		if err2 == nil {
			return file, nil
		}
		err = cmp.Or(err, err2)
	}
	return nil, fmt.Errorf("the kernel's configuration is in none of /proc/config.gz, /boot/config-%s, /lib/modules/%s/config: %w", release, release, err)
}

type gzipped struct {
	io.Reader
	io.Closer
}
