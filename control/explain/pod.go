// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/netdump"
)

// pod is a pod of this node, as the kernel shows it.
type pod struct {
	ends  map[int]int // its veth devices: index in the pod -> index of the other end
	addrs []netip.Addr
	netns uint64 // cookie
}

// podsNamed finds the pods of this node with a name. The kubelet gives the processes of a pod their own host name:
// spec.hostname or else the pod's name, shortened to the length of a host name. So podsNamed asks neither an API
// server nor a container runtime. It does not find pods in the node's network namespace.
func podsNamed(name string) (pods []pod, err error) {
	theirs, err := namespacesOf(hostnameOf(name))
	if err != nil {
		return nil, err
	}
	filter := &netns.Filter{
		Known:  func(ns string) bool { return !theirs[ns] },
		Wanted: func(string, *os.File) bool { return true },
	}
	err = netns.Each(filter, func() error {
		p, err := podHere()
		pods = append(pods, p)
		return err
	})
	return pods, err
}

// namespacesOf returns the network namespaces, as /proc names them, of the processes with a host name.
func namespacesOf(name string) (map[string]bool, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/ns/uts")
	if err != nil {
		return nil, err
	}
	hostnames, namespaces := map[string]string{}, map[string]bool{}
	for _, path := range processes {
		uts, err := os.Readlink(path)
		if err != nil {
			continue // the process has ended
		}
		if _, known := hostnames[uts]; !known {
			hostnames[uts] = hostname(path)
		}
		if hostnames[uts] != name {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(filepath.Dir(path), "net")); err == nil {
			namespaces[ns] = true
		}
	}
	return namespaces, nil
}

// hostnameOf shortens a name as the kubelet does (pkg/kubelet/kubelet_pods.go, truncatePodHostnameIfNeeded).
func hostnameOf(name string) string {
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// hostname returns the host name of a UTS namespace; empty if its process has ended, or it can't be entered.
func hostname(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	got := make(chan string)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		var name unix.Utsname
		if unix.Setns(int(file.Fd()), unix.CLONE_NEWUTS) != nil || unix.Uname(&name) != nil {
			got <- ""
			return
		}
		nodename, _, _ := bytes.Cut(name.Nodename[:], []byte{0})
		got <- string(nodename)
	}()
	return <-got
}

// podHere looks at the network namespace that the thread is in.
func podHere() (p pod, err error) {
	if p.netns, err = loader.NetnsCookie(); err != nil {
		return p, err
	}
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return p, err
	}
	p.ends = map[int]int{}
	for _, link := range links {
		if link.Type() == "veth" {
			p.ends[link.Attrs().Index] = link.Attrs().ParentIndex
		}
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsGlobalUnicast() {
			p.addrs = append(p.addrs, addr.Unmap())
		}
	}
	return p, err
}

// device is the node's end of the pod's veth pair.
func (p pod) device() (netlink.Link, bool) {
	for inside, outside := range p.ends {
		link, err := netlink.LinkByIndex(outside)
		if err == nil && link.Type() == "veth" && link.Attrs().ParentIndex == inside {
			return link, true
		}
	}
	return nil, false
}

// podNamed finds the one pod with a name.
func podNamed(name string) (pod, error) {
	pods, err := podsNamed(name)
	switch {
	case len(pods) == 1:
		return pods[0], nil
	case len(pods) > 1:
		return pod{}, fmt.Errorf("--pod %s: %d pods of this node have that name: name the device with --device, or with --socket the network namespace with --netns", name, len(pods))
	case err != nil:
		return pod{}, fmt.Errorf("--pod %s: %w", name, err)
	}
	return pod{}, fmt.Errorf("--pod %s: no process of this node has that host name, other than those in the node's network namespace", name)
}

// PodNetns is the cookie of the network namespace of a pod of this node. The error names the flag --pod.
func PodNetns(name string) (uint64, error) {
	p, err := podNamed(name)
	return p.netns, err
}

// fromPod completes a question about a packet of a pod.
func (e *Explainer) fromPod(q *Question) (device, error) {
	p, err := podNamed(q.Pod)
	if err != nil {
		return device{}, err
	}
	link, ok := p.device()
	if !ok {
		return device{}, fmt.Errorf("--pod %s: it has no veth device whose other end is the node's: name the device with --device", q.Pod)
	}
	if q.From.IsValid() {
		return e.deviceOf(link), nil
	}
	i := slices.IndexFunc(p.addrs, func(a netip.Addr) bool { return a.Is4() == q.To.Addr().Is4() })
	if i < 0 {
		return device{}, fmt.Errorf("--pod %s: it has no address of the family of --to %s", q.Pod, q.To.Addr())
	}
	q.From = netip.AddrPortFrom(p.addrs[i], clientPort)
	return e.deviceOf(link), nil
}
